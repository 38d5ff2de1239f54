r"""Train the demo's model: logistic regression on scikit-learn's breast-cancer data.

    python examples/train_breast_cancer.py var/in
    privacy publish var/in/breast_cancer.joblib --data var/in/breast_cancer.csv \
        --name breast-cancer --label diagnosis --classes malignant,benign

`examples/demo.py` does all this by itself.
"""

import sys
from pathlib import Path
from typing import Any

CLASSES = ("malignant", "benign")


def train() -> tuple[Any, Any, list[str]]:
    """Return the fitted pipeline, rows it was not trained on, and their diagnoses.

    The rows are a DataFrame of the 30 raw features; half the data, so that accuracy
    measured on them is honest.
    """
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, truth = load_breast_cancer(return_X_y=True, as_frame=True)
    seen, kept, seen_truth, kept_truth = train_test_split(
        table, truth, test_size=0.5, random_state=0, stratify=truth
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(seen.to_numpy(), seen_truth.to_numpy())
    return model, kept.reset_index(drop=True), [CLASSES[i] for i in kept_truth]


def main(folder: Path) -> None:
    """Write `breast_cancer.joblib` and `breast_cancer.csv`, as `publish` takes them."""
    import joblib

    model, table, truth = train()
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "breast_cancer.joblib")
    table.assign(diagnosis=truth).to_csv(folder / "breast_cancer.csv", index=False)
    print(f"wrote {folder / 'breast_cancer.joblib'} and {folder / 'breast_cancer.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
