"""What only a real device can show. What a CPU can show too is run there as well, slowly."""
