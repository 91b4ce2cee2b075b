"""Access to the machine: files, directories, processes, CPUs, GPUs, and its errors."""
