"""What is computed: a case's module, its input and its counts."""
