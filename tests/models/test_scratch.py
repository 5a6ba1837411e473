"""Memory that is kept from call to call: the same place for the same slot, another for another thread."""

from concurrent.futures import ThreadPoolExecutor

import torch

from videomae2.models.scratch import scratch

LIKE = torch.empty(0)


def test_a_slot_is_one_place_that_grows() -> None:
    first = scratch("tested", LIKE, (3, 4))
    assert first.shape == (3, 4)
    assert scratch("tested", LIKE, (2, 5)).data_ptr() == first.data_ptr()
    assert scratch("tested", LIKE, (30, 40)).shape == (30, 40)
    larger = scratch("tested", LIKE, (7,))
    assert larger.untyped_storage().nbytes() == 30 * 40 * 4


def test_slots_types_and_threads_have_places_of_their_own() -> None:
    one = scratch("one", LIKE, (4,)).fill_(1)
    others = [scratch("two", LIKE, (4,)), scratch("one", LIKE.bfloat16(), (4,))]
    with ThreadPoolExecutor(1) as pool:
        others.append(pool.submit(scratch, "one", LIKE, (4,)).result())
    for other in others:
        other.fill_(2)
    assert one.tolist() == [1, 1, 1, 1]
    assert others[1].dtype == torch.bfloat16


def test_a_device_with_an_allocator_of_its_own_gets_fresh_memory() -> None:
    meta = torch.empty(0, device="meta")
    assert scratch("one", meta, (2, 3)).device.type == "meta"
    assert scratch("one", LIKE, (2, 3)).device.type == "cpu"
