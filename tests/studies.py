"""The study that most tests of studies run."""

import jaxirls as ji
from jaxirls import study

SEPARATION = study.Scenario(
    n=20,
    coefficients=(1.5, -1.0),
    design=study.Normal(scale=1.5),
    family=ji.Binomial(),
    replicates=700,
    seed=418,
)
