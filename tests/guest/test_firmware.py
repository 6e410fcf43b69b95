"""The firmware's pattern is the one that was measured."""

from __future__ import annotations

from collections import Counter

import pytest

from tdxlab.engine.drive import together
from tdxlab.guest import firmware
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SHIFT, PG_LEVEL_4K

MIB = 1 << 20


def test_2710_accepts_at_4k_are_where_2m_could_be():
    once = 512 - firmware.IMAGE_PAGES
    assert once == 506 and firmware.ONCE[1] == 512
    frames = Counter(firmware.single())
    assert once + 512 + frames.total() == 2710
    assert dict(frames.most_common(3)) == {0x7D9D7: 974, 0x7D9DA: 476, 0x7D9D9: 156}
    assert (min(frames), max(frames)) == (0x7D3FF, 0x7E7FE)


def test_the_slots_of_4_gib_are_the_measured_ones():
    slots = [(gpa >> PAGE_SHIFT, nbytes >> PAGE_SHIFT) for gpa, nbytes in firmware.memslots(4 << 30)]
    assert slots == [(0, 0x80000), (0x100000, 0x80000), (0xFFC00, 0x400)]


@pytest.mark.parametrize("nbytes", [0, 128 * MIB, 257 * MIB, 9 << 30])
def test_a_td_without_room_for_it_is_refused(nbytes):
    with pytest.raises(ValueError, match="256M to 7G"):
        firmware.memslots(nbytes)


@pytest.mark.parametrize("nbytes", [256 * MIB, 1 << 30, 4 << 30])
def test_the_bounce_buffers_lie_clear_of_what_the_firmware_converts(nbytes):
    low_end = firmware.memslots(nbytes)[0][1]
    start, length = firmware.swiotlb(low_end)
    assert length == max(64 * MIB, nbytes * 6 // 100 & -2 * MIB)
    assert start >= (firmware.IMAGE + 512 << PAGE_SHIFT)
    assert start + length <= low_end - (firmware.LOW_END - firmware.CONVERTED[0] << PAGE_SHIFT)


def test_the_host_sees_each_frame_accepted_as_often_as_the_table_says():
    thin, low_end = 100, 128 * MIB
    lab = Lab(cpus=1, grain="seamcall")
    td = lab.create_td(memory="128M", finalize=False)
    td.add_image(firmware.IMAGE << PAGE_SHIFT, firmware.IMAGE_PAGES)
    td.finalize()
    lab.journal.notes.clear()
    faults = Counter()

    def told(notes):
        faults.update(
            firmware.LOW_END - (low_end - note["gpa"] >> PAGE_SHIFT)
            for note in notes
            if note["kind"] == "fault" and note["accept_level"] == PG_LEVEL_4K
        )

    together(lab.journal, [td.vcpu(0, firmware.edk2(low_end, thin))], told)
    assert {frame: faults[frame] for frame in firmware.HOT} == {0x7D9D7: 9, 0x7D9DA: 4, 0x7D9D9: 1}
    assert all(faults[frame] == 1 for frame in range(0x7E800, 0x7EA00))
    below = firmware.LOW_END - (low_end >> PAGE_SHIFT)
    assert [faults[below + frame] for frame in range(0x800, 0xA00)] == [0] * 6 + [1] * 506
    buffers = (firmware.BUFFERS // thin + 1) * firmware.BUFFER_PAGES
    assert faults.total() == 506 + 512 + 14 + 86 + buffers
    assert not [gfn for gfn in td.kvm.mem_attr_array if not td.kvm.mem_attr_array[gfn]], "all are private again"
