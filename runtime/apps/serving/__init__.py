"""serve: a page to drop pictures on. Gradio draws it; engines, files and the work know nothing of Gradio."""
