"""What a TD has, in spans, against a dictionary of pages; and jitter that can be asked anywhere."""

from __future__ import annotations

import random

from tdxlab.scale.jitter import CHUNK, Jitter
from tdxlab.scale.log import Mapped


def test_spans_are_the_pages_of_a_dictionary() -> None:
    dice = random.Random(1)
    mapped, pages = Mapped(), dict[int, int]()
    for _ in range(400):
        gfn, count, pfn = dice.randrange(2_000), dice.randint(1, 40), dice.randrange(9_000)
        if dice.random() < 0.5:
            count = min(count, 512 - pfn % 512)
            if not pages.keys() & set(range(gfn, gfn + count)):
                mapped.add(gfn, pfn, count)
                pages |= {gfn + n: pfn + n for n in range(count)}
        else:
            taken = sorted(first + n for first, left in mapped.take(gfn, count) for n in range(left))
            assert taken == sorted(pages.pop(page) for page in range(gfn, gfn + count) if page in pages)
        found = {gfn + n: pfn + n for gfn, pfn, count in mapped for n in range(count)}
        assert found == pages
        assert all(pfn // 512 == (pfn + count - 1) // 512 for _, pfn, count in mapped)


def test_a_jitter_is_the_same_however_it_is_asked() -> None:
    jitter = Jitter(700, 3)
    each = [jitter.of(2, n) for n in range(3 * CHUNK)]
    assert max(map(abs, each)) <= 700 and len(set(each)) > 500
    for first, end in ((0, 1), (5, 5), (100, 700), (500, 1_536)):
        assert jitter.between(2, first, end) == sum(each[first:end])
    assert each != [jitter.of(3, n) for n in range(3 * CHUNK)]
    assert not Jitter(0, 3).between(1, 0, 2_000)
