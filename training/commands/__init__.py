"""What `vla` runs of training and evaluation. A command checks what it is told before it imports
what does the work, which takes seconds."""
