"""Formulas and groups: what statsmodels' formulas give group by group, whatever the sizes and the order of the rows."""

import sys

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

FORMULA = "sold ~ center(price) * kind"


def simulate(sizes=(30, 12, 70, 25), seed=0):
    """Rows of stores in no order, whose labels in the index mean nothing."""
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    store = np.repeat(list("dbca"), sizes)
    data = pd.DataFrame({"store": store, "half": rng.integers(1, 3, n), "price": rng.normal(size=n)})
    data["kind"] = rng.choice(["new", "old", "used"], n)
    data["days"] = rng.integers(1, 9, n)
    data["log_days"] = np.log(data.days)
    data["sold"] = rng.poisson(data.days * np.exp(0.3 - 0.2 * data.price))
    data["sure"] = rng.integers(1, 4, n)
    return data.sample(frac=1, random_state=seed)


def theirs(formula, rows, family, **arrays):
    return smf.glm(formula, rows, family=family, **arrays).fit(tol=1e-14, tol_criterion="params", maxiter=100)


@pytest.mark.parametrize("cheap", [0, 2**22])
def test_every_group_has_the_fit_of_its_rows(monkeypatch, cheap):
    """Groups filled up to one length, or fitted in batches of similar lengths."""
    monkeypatch.setattr("jaxirls.frames.CHEAP", cheap)
    data = simulate()
    formula = "sold ~ price * kind"
    found = ji.frames.fit(formula, data, ji.Poisson(), by="store", offset="log_days", freq_weights="sure")
    assert list(found.groups) == ["a", "b", "c", "d"]
    assert found.fit.converged.all()
    table = found.to_dataframe().set_index(["store", "coefficient"])
    predicted = found.predict(data)
    for store, rows in data.groupby("store"):
        offset = rows.log_days.to_numpy()
        peer = theirs(formula, rows, sm.families.Poisson(), offset=offset, freq_weights=rows.sure.to_numpy())
        one = found[store]
        names = peer.params.index  # patsy's order, categories first
        np.testing.assert_allclose(found.params.loc[store][names], peer.params, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose([one.llf, one.nobs], [peer.llf, rows.sure.sum()], rtol=1e-9)
        np.testing.assert_allclose(table.loc[store].bse[names], peer.bse, rtol=1e-7)
        np.testing.assert_allclose(predicted[rows.index], peer.predict(rows, offset=offset), rtol=1e-7)


def test_one_fit_without_groups():
    data = simulate()
    shift = data.log_days.to_numpy()
    found = ji.frames.fit(FORMULA, data, ji.Poisson(), offset=shift)
    peer = theirs(FORMULA, data, sm.families.Poisson(), offset=shift)
    assert found.groups is None
    np.testing.assert_allclose(found.params[peer.params.index], peer.params, rtol=1e-7, atol=1e-9)
    new = data.iloc[:5]
    eta = peer.predict(new, offset=shift[:5], which="linear")
    np.testing.assert_allclose(found.predict(new, offset=shift[:5], linear=True), eta, rtol=1e-7)
    np.testing.assert_allclose(found.predict(new), peer.predict(new, offset=np.zeros(5)), rtol=1e-7)
    assert "kind[T.old]" in found.summary()
    assert "Dep. Variable:                   sold" in found.summary()
    assert list(found.to_dataframe().coefficient) == found.names
    leverage = ji.influence(found.fit, found.matrix(data), data.sold.to_numpy(), offset=shift).hat_matrix_diag
    np.testing.assert_allclose(leverage, peer.get_influence().hat_matrix_diag, rtol=1e-7)


def test_groups_by_two_columns_and_trials_by_row():
    data = simulate((60, 50, 40, 30))
    data["kept"] = np.minimum(data.sold, data.days)
    family = ji.Binomial(trials=data.days.to_numpy())
    found = ji.frames.fit("kept ~ price", data, family, by=["store", "half"])
    assert found.groups.names == ["store", "half"]
    assert len(found.groups) == len(found.fit) == 8
    rows = data[(data.store == "c") & (data.half == 2)].assign(share=data.kept / data.days)
    peer = theirs("share ~ price", rows, sm.families.Binomial(), var_weights=rows.days.to_numpy())
    np.testing.assert_allclose(found["c", 2].params, peer.params, rtol=1e-7)
    np.testing.assert_allclose(found.predict(rows), peer.predict(rows), rtol=1e-7)
    assert list(found.to_dataframe().columns[:3]) == ["store", "half", "coefficient"]


def test_a_group_is_told_what_is_wrong_with_it_and_touches_no_other():
    data = simulate()
    fits = ji.frames.fit("sold ~ price + kind", data, ji.Poisson(), by="store").params
    broken = data.copy()
    broken.loc[data.index[data.store == "a"][0], "kind"] = None  # formulaic would take it for the first kind
    broken.loc[data.index[data.store == "b"][0], "price"] = np.nan
    broken.loc[data.store == "c", "kind"] = "new"
    found = ji.frames.fit("sold ~ price + kind", broken, ji.Poisson(), by="store")
    names = [ji.Status(int(code)).name for code in found.fit.status]
    assert names == ["INVALID_DATA", "INVALID_DATA", "RANK_DEFICIENT", "CONVERGED"]
    np.testing.assert_array_equal(found["c"].aliased, [False, False, True, True])
    np.testing.assert_array_equal(found.params.loc["d"], fits.loc["d"])


def test_fewer_rows_than_columns_are_a_status():
    data = simulate((2, 2, 2, 2))
    data["sold"] += 1
    found = ji.frames.fit("sold ~ price + half", data, ji.Poisson(), by="store")
    assert (found.fit.status == ji.Status.RANK_DEFICIENT).all()


def test_what_is_wrong_is_named():
    data = simulate()
    family = ji.Poisson()
    with pytest.raises(ValueError, match="data must be a pandas DataFrame"):
        ji.frames.fit("sold ~ price", {"sold": [1.0]}, family)
    with pytest.raises(ValueError, match="response must be one column"):
        ji.frames.fit("~ price", data, family)
    with pytest.raises(ValueError, match="response must be one column"):
        ji.frames.fit("kind ~ price", data, family)
    with pytest.raises(ValueError, match="by: 'shop' is no column of data; there are store, half"):
        ji.frames.fit("sold ~ price", data, family, by="shop")
    with pytest.raises(ValueError, match="offset: 'exposure' is no column"):
        ji.frames.fit("sold ~ price", data, family, offset="exposure")
    with pytest.raises(ValueError, match=r"freq_weights has shape \(3,\): expected one value a row"):
        ji.frames.fit("sold ~ price", data, family, freq_weights=np.ones(3))
    with pytest.raises(ValueError, match="offset: its index is not that of data"):
        ji.frames.fit("sold ~ price", data, family, offset=data.log_days.sort_index())
    with pytest.raises(ValueError, match="by: 1 rows of data belong to no group"):
        ji.frames.fit("sold ~ price", data.assign(store=data.store.where(data.index != 7)), family, by="store")
    found = ji.frames.fit("sold ~ price + kind", data, family, by="store")
    with pytest.raises(ValueError, match="row 0 is of a group that was not fitted"):
        found.predict(data.assign(store="z"))
    with pytest.raises(ValueError, match=r"category that was not in the frame of the fit.*wet"):
        found.predict(data.assign(kind="wet"))
    with pytest.raises(TypeError, match="not one a group"):
        ji.frames.fit("sold ~ price", data, family)["a"]


@pytest.mark.parametrize("package", ["pandas", "formulaic"])
def test_a_missing_package_is_named(monkeypatch, package):
    data = simulate()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'jaxirls\[frames\]'"):
        ji.frames.fit("sold ~ price", data, ji.Poisson())
