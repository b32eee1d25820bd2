"""What every room shares: errors, names on the disk, temporaries, arguments, memory. Nothing of this project."""
