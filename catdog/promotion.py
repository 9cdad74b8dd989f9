"""refusal, promotion: the gate that a model goes through before an alias points to it, and what is said of it.

Where an alias points nowhere yet, the first version passes. After that a challenger needs the champion's labels, in their order, as who
reads logits tells the labels by their place; and a comparison with this very champion that does not find it worse.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from catdog.comparison import Comparison
from catdog.errors import CompareFirst, NotComparable, NotPromoted

if TYPE_CHECKING:
    from catdog.registry import Model


def refusal(alias: str, labels: Sequence[str], champion: "Model | None", comparison: Comparison | None) -> NotPromoted | None:
    """Why a challenger with these labels, and this comparison with the champion, may not have the alias. None: it may."""
    if champion is None:
        return None
    evidence = None if comparison is None else comparison.to_dict() | {"champion": champion.version}
    if [*labels] != champion.labels:
        return NotPromoted(
            f"Expected the labels {champion.labels}, in this order, as version {champion.version} has. Received: {[*labels]}.",
            comparison=evidence, remedy="Let another alias point to it, or send force: true, which the alias's history records.",
        )
    if comparison is None:
        return CompareFirst(f"Expected a comparison with version {champion.version}, to which {alias} points now. Received: none.")
    accuracy = comparison.accuracy
    figures = (
        f"accuracy {accuracy['challenger']:.4f} against {accuracy['champion']:.4f} of version {champion.version} on {comparison.pictures} "
        f"pictures that neither was made with (alone right: {comparison.wins} against {comparison.losses}, p = {comparison.p_value:.2g})"
    )
    match comparison.verdict:
        case "not_comparable":
            return NotComparable(f"Expected enough pictures to compare two models. Received: {figures}.", comparison=evidence)
        case "worse":
            return NotPromoted(f"Expected a model that is no worse than the champion. Received: {figures}.", comparison=evidence)
        case "no_worse":
            return None


def promotion(alias: str, champion: "Model | None", refused: NotPromoted | None) -> dict[str, Any]:
    """What the result of a training says of its alias."""
    said = {"alias": alias, "promoted": refused is None, "champion": champion and champion.version}
    return said if refused is None else said | {"code": refused.code, "message": refused.message, "remedy": refused.remedy}
