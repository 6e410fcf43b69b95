"""Guest programs: coroutines over `hw.guest.Guest`.  They see the TD's registers, and neither the host nor the module."""
