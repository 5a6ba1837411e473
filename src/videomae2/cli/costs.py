"""The command `cost`: what a run needs, before a machine is rented. No torch: the answer is arithmetic."""

from typing import Annotated

from cyclopts import Parameter

from videomae2.cost.estimate import Question


def cost(
    *,
    question: Annotated[Question, Parameter(name="*")] | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Say what a network and a run cost: multiply-accumulates, parameters, memory of a process, steps,
    device-hours.

    Parameters
    ----------
    json
        Print one JSON object instead of a table.
    """
    from videomae2.cost.estimate import answer, table

    found = answer(question or Question())
    if json:
        import json as writer

        print(writer.dumps(found, indent=2))
    else:
        print(table(found))
