"""Guest programs: coroutines over `hw.guest.Guest`.  They see the TD's registers, neither the host nor the module."""
