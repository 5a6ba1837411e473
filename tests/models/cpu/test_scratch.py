"""Memory that is kept from call to call: one place for each slot, type and thread, and none in a copy."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import torch

from videomae2.models.cpu.scratch import Scratch

FLOAT = torch.float32


def test_a_slot_is_one_place_that_grows() -> None:
    scratch = Scratch()
    first = scratch("tested", FLOAT, (3, 4))
    assert first.shape == (3, 4)
    assert scratch("tested", FLOAT, (2, 5)).data_ptr() == first.data_ptr()
    assert scratch("tested", FLOAT, (30, 40)).shape == (30, 40)
    larger = scratch("tested", FLOAT, (7,))
    assert larger.untyped_storage().nbytes() == 30 * 40 * 4


def test_slots_types_threads_and_objects_have_places_of_their_own() -> None:
    scratch = Scratch()
    one = scratch("one", FLOAT, (4,)).fill_(1)
    others = [
        scratch("two", FLOAT, (4,)),
        scratch("one", torch.bfloat16, (4,)),
        Scratch()("one", FLOAT, (4,)),
    ]
    with ThreadPoolExecutor(1) as pool:
        others.append(pool.submit(scratch, "one", FLOAT, (4,)).result())
    for other in others:
        other.fill_(2)
    assert one.tolist() == [1, 1, 1, 1]
    assert others[1].dtype == torch.bfloat16


def test_what_is_made_in_inference_mode_can_be_written_outside() -> None:
    scratch = Scratch()
    with torch.inference_mode():
        scratch("one", FLOAT, (4,))
    with torch.device("meta"):  # a device that somebody set is not the scratch's
        assert scratch("one", FLOAT, (8,)).fill_(1).sum() == 8


def test_copies_start_empty_and_are_shared_as_the_original_was() -> None:
    scratch = Scratch()
    first = scratch("one", FLOAT, (1000,))
    pair = [scratch, scratch]
    for copied in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert copied[0] is copied[1] is not scratch
        assert copied[0]("one", FLOAT, (4,)).data_ptr() != first.data_ptr()
    assert len(pickle.dumps(scratch)) < 200
