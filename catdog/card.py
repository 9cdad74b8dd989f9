"""written: a model package in a page for people, CARD.md."""

from typing import Any


def written(facts: dict[str, Any]) -> str:
    """The card of a package, from what its package.json says."""
    config, metrics, pictures = facts["config"], facts["metrics"], facts["pictures"]
    splits = "\n".join(
        f"| {split} | {values['images']} | {values['accuracy']:.4f} | {values['balanced_accuracy']:.4f} | {values['loss']:.4f} "
        f"| {_shown(values['auroc'])} | {values['ece']:.4f} | {values['brier']:.4f} |"
        for split, values in metrics.items()
    )
    return (
        f"# {config['model']}: {', '.join(facts['labels'])}\n\n"
        f"Answers photographs with one of {len(facts['labels'])} labels. "
        "A picture that is unlike those it was trained on, or of which it is not sure, gets none of them.\n\n"
        f"| split | images | accuracy | balanced accuracy | loss ({config['loss']}) | AUROC | calibration error | Brier score |\n"
        f"|---|---|---|---|---|---|---|---|\n{splits}\n\n"
        f"{_by_label(facts)}\n\n"
        "Precision is 0 where no picture got the label.\n\n"
        f"Trained on {pictures['images']['train']} pictures of data set {config['dataset']} "
        f"(fingerprint {facts['fingerprint'][:16]}), balance {config['balance']}, seed {config['seed']}, "
        f"on {facts['device']['name']} ({facts['device']['reason']}).\n"
        f"Started from {config['weights']} weights ({facts['licence']}); trained: {config['trainable']}.\n"
        f"\n{_calibrated(facts)}\n\n{_multiplied(facts['quantisation'])}\n"
    )


def _calibrated(facts: dict[str, Any]) -> str:
    """What the temperature changed, and how many pictures get no label."""
    rows = [
        "| split | calibration error before | after | Brier score before | after | no label: unfamiliar | unsure |",
        "|---|---|---|---|---|---|---|",
    ]
    for split, figures in facts["calibration"].items():
        before, after, abstained = figures["before"], figures["after"], facts["abstained"][split]
        rows.append(
            f"| {split} | {before['ece']:.4f} | {after['ece']:.4f} | {before['brier']:.4f} | {after['brier']:.4f} "
            f"| {abstained['unfamiliar']:.1%} | {abstained['unsure']:.1%} |"
        )
    thresholds = facts["thresholds"]
    return (
        f"Confidences are calibrated on val: logits are divided by {facts['temperature']:.3f}. No label is given where the 10th nearest "
        f"training picture is further than {thresholds['distance']:.3f} (cosine of features), or below a confidence of "
        f"{thresholds['confidence']:.3f} (wanted: {facts['config']['target_precision']:.0%} of the given answers right).\n\n"
        + "\n".join(rows)
    )


def _multiplied(choice: dict[str, Any]) -> str:
    """In what the served network multiplies, and what the other would have done."""
    said = f"Served in {choice['served']}: {choice['reason']}."
    if choice["accuracy"] is None:
        return said
    rows = [
        f"| {name} | {accuracy:.4f} | {choice['milliseconds'][name]:.2f} |" for name, accuracy in choice["accuracy"].items()
    ]
    agreed = f"Of val's pictures {choice['agreement']:.1%} get the same answer of both."
    return f"{said} {agreed}\n\n| network | accuracy on val | ms a picture, one thread |\n|---|---|---|\n" + "\n".join(rows)


def _shown(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.4f}"


def _by_label(facts: dict[str, Any]) -> str:
    """A table with a row for each label and split; of train, which is not measured, only the pictures are counted."""
    rows = ["| label | split | images | precision | recall | F1 |", "|---|---|---|---|---|---|"]
    for label in facts["labels"]:
        name = label.replace("|", "\\|")
        rows.append(f"| {name} | train | {facts['pictures']['counts']['train'][label]} | | | |")
        for split, values in facts["metrics"].items():
            one = values["by_label"][label]
            rows.append(f"| {name} | {split} | {one['images']} | {one['precision']:.4f} | {one['recall']:.4f} | {one['f1']:.4f} |")
    return "\n".join(rows)
