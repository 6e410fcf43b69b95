"""TDG.VP.VMCALL: the sub-functions with which a guest asks its host for a service.  [M: GHCI 1.5, recalled]"""

from __future__ import annotations

TDVMCALL_MAP_GPA = 0x10001  # R12 = GPA, with the SHARED bit if that is what it should become, R13 = bytes
SHARED_BIT = 1 << 47  # in a TD with a guest-physical address width of 48 bits
TDVMCALL_STATUS_RETRY = 1  # R10 of the answer: go on from the GPA in R11
