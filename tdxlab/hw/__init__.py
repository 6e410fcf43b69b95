"""The machine: memory, logical processors, TLBs, and the words that the TDX module uses as locks."""
