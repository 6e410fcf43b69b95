"""Guest programs: coroutines over `hw.cpu.Guest`.  They see the TD's registers, and neither the host nor the module."""
