r"""Train a credit model: boosted trees on eight made-up features of loan applicants.

    python examples/train_credit.py var/in
    privacy publish var/in/credit.joblib --data var/in/credit.csv \
        --name credit --label outcome --classes paid,default

Nothing is fetched: the applicants are drawn at random, always the same ones.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("paid", "default")
COLUMNS = (
    "age_years",
    "income_per_year",
    "debt_to_income",
    "credit_used",
    "late_payments",
    "open_accounts",
    "months_in_job",
    "recent_inquiries",
)
_TRAINED, _KEPT = 2000, 600


def applicants(count: int, *, seed: int) -> tuple[Any, Any]:
    """Return made-up applicants and whether each defaulted (1) or paid (0).

    The features hang together as real ones do, and the outcome is random with odds
    that depend on them: no model can be right about everyone.

    Returns:
        Rows, float64, shape (count, 8), columns as in `COLUMNS`; outcomes, (count,).
    """
    rng = np.random.default_rng(seed)
    age = rng.uniform(21, 70, count)
    income = np.exp(rng.normal(10.4 + 0.01 * (age - 45), 0.45))
    debt = np.clip(rng.gamma(2.2, 0.14, count) * (40_000 / income) ** 0.3, 0, 2)
    used = rng.beta(1.6, 2.4, count)
    late = rng.poisson(0.25 + 1.6 * used * debt)
    accounts = rng.poisson(2 + age / 20)
    job = rng.exponential(14 + 1.3 * (age - 20))
    inquiries = rng.poisson(0.6 + 1.5 * used)
    poor, settled = income < 30_000, job > 36  # noqa: PLR2004 - made up
    odds = (
        -5.2
        + 5.0 * debt
        + 3.5 * used * poor
        + 1.6 * np.minimum(late, 4)
        + 0.6 * inquiries
        - 2.0 * settled
    )
    outcome = rng.uniform(size=count) < 1 / (1 + np.exp(-odds))
    columns = (age, income, debt, used, late, accounts, job, inquiries)
    return np.column_stack(columns).round(3), outcome.astype(int)


def train() -> tuple[Any, Any, list[str]]:
    """Return the fitted pipeline, applicants it was not trained on, their outcomes.

    Ten trees of depth two: small enough to be quick in every mode.
    """
    import pandas as pd
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from xgboost import XGBClassifier

    rows, outcome = applicants(_TRAINED + _KEPT, seed=7)
    trees = XGBClassifier(
        n_estimators=10, max_depth=2, learning_rate=0.5, random_state=0, n_jobs=1
    )
    model = make_pipeline(StandardScaler(), trees)
    model.fit(rows[:_TRAINED], outcome[:_TRAINED])
    kept = pd.DataFrame(rows[_TRAINED:], columns=list(COLUMNS))
    return model, kept, [CLASSES[i] for i in outcome[_TRAINED:]]


def main(folder: Path) -> None:
    """Write `credit.joblib` and `credit.csv`, as `publish` takes them."""
    import joblib

    model, table, truth = train()
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "credit.joblib")
    table.assign(outcome=truth).to_csv(folder / "credit.csv", index=False)
    print(f"wrote {folder / 'credit.joblib'} and {folder / 'credit.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
