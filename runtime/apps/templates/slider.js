const slide = (slider) => {
  const [frame, stack, divider] = [".window", ".stack", ".divider"].map((name) => slider.querySelector(name));
  const [left, right, zoom] = [".left", ".right", ".zoom"].map((name) => slider.querySelector(name));
  const pictures = [...stack.querySelectorAll("img")];
  const line = stack.querySelector(".line");

  const show = () => {
    pictures.forEach((picture) => { picture.className = ""; picture.style.clipPath = ""; });
    pictures[left.value].className = "shown";
    pictures[right.value].className = "shown";
    if (left.value !== right.value) {
      pictures[left.value].style.clipPath = `inset(0 ${100 - divider.value}% 0 0)`;
      pictures[right.value].style.clipPath = `inset(0 0 0 ${divider.value}%)`;
    }
    line.style.left = `${divider.value}%`;
    const sides = [pictures[left.value].alt, pictures[right.value].alt].map((text) => text.split(": ").pop());
    divider.setAttribute("aria-valuetext", `${divider.value} percent ${sides[0]}, the rest ${sides[1]}`);
  };
  const enlarge = () => {
    const times = Number(zoom.value);
    stack.style.width = times ? `${times * pictures[0].width_of_file}px` : "";
    stack.classList.toggle("zoomed", times > 0);
    frame.tabIndex = times ? 0 : -1;
    frame.scrollTo((stack.offsetWidth - frame.clientWidth) / 2, (stack.offsetHeight - frame.clientHeight) / 2);
  };
  const drag = (event) => {
    if (event.type === "pointermove" && !(event.buttons & 1)) return;
    const box = stack.getBoundingClientRect();
    divider.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    show();
  };

  pictures.forEach((picture) => { picture.draggable = false; picture.width_of_file = Number(picture.getAttribute("width")); });
  for (const control of [left, right, divider]) control.addEventListener("input", show);
  zoom.addEventListener("input", enlarge);
  stack.addEventListener("pointerdown", drag);
  stack.addEventListener("pointermove", drag);
  slider.querySelector(".controls").hidden = false;
  slider.classList.add("on");
  show();
};
