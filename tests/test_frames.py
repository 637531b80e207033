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
    for formula in ("~ price", "sold ~ price | half", "sold | half ~ price"):
        with pytest.raises(ValueError, match=r"formula: expected a response and one right-hand side"):
            ji.frames.fit(formula, data, family)
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
    with pytest.raises(ValueError, match=r"a category that the formula, or the frame of the fit, lacks.*wet"):
        found.predict(data.assign(kind="wet"))
    with pytest.raises(TypeError, match="not one a group"):
        ji.frames.fit("sold ~ price", data, family)["a"]
    with pytest.raises(KeyError, match="'z' is no group"):
        found["z"]
    with pytest.raises(ValueError, match=r"write ji.Poisson\(\)"):
        ji.frames.fit("sold ~ price", data, ji.Poisson)
    with pytest.raises(ValueError, match="data has no rows"):
        ji.frames.fit("sold ~ price", data.iloc[:0], family)
    with pytest.raises(ValueError, match="names a column twice"):
        ji.frames.fit("sold ~ price", data, family, by=["store", "store"])
    with pytest.raises(ValueError, match=r"rename that of data"):
        ji.frames.fit("sold ~ price", data.assign(status=data.store), family, by="status").to_dataframe()
    twice = pd.concat([data, data[["price"]] + 1], axis=1)
    with pytest.raises(ValueError, match="'price' is no column of data; there are several of that name"):
        ji.frames.fit("sold ~ price", twice, family)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scale", {"scale": np.ones(4)}),
        ("penalty", {"penalty": ji.Ridge(np.ones(4))}),
        ("alpha", {"family": ji.NegativeBinomial(np.ones(4))}),
    ],
)
def test_options_that_differ_between_groups_are_refused(name, options):
    with pytest.raises(ValueError, match=f"{name} has a batch axis: with by= it must be the same for all groups"):
        ji.frames.fit("sold ~ price", simulate(), **{"family": ji.Gaussian(), "by": "store"} | options)


@pytest.mark.parametrize("column", [pd.Timestamp("2020"), 1j, "1"], ids=["date", "complex", "text"])
def test_what_is_no_real_number_is_not_made_one(column):
    data = simulate().assign(odd=column)
    with pytest.raises(ValueError, match=r"freq_weights is of dtype .*: expected real numbers"):
        ji.frames.fit("sold ~ price", data, ji.Poisson(), freq_weights="odd")
    with pytest.raises(ValueError, match=r"formula: (odd is of dtype|the response must be|.* makes no numbers)"):
        ji.frames.fit("odd ~ price", data, ji.Poisson())


def test_a_factor_stays_a_factor():
    """Formulaic copies a column of numbers into every column of a factor, and takes pandas' strings for numbers."""
    data = simulate()
    factor = data.assign(half=data.half.map({1: "01", 2: "2"}))
    found = ji.frames.fit("sold ~ half + kind", factor, ji.Poisson())
    assert found.names == ["Intercept", "half[T.2]", "kind[T.old]", "kind[T.used]"]
    with pytest.raises(ValueError, match="'half' holds numbers, in the frame of the fit it held categories"):
        found.predict(factor.assign(half=1))
    nullable = ji.frames.fit("sold ~ half + kind", factor.convert_dtypes(), ji.Poisson())
    assert nullable.names == found.names
    np.testing.assert_array_equal(nullable.params, found.params)


def test_weights_of_one_group_are_no_other_groups():
    data = simulate((5, 9, 8, 7)).sort_values("store", ignore_index=True)
    data["sold"] += 1
    data["sure"] = np.where(data.store == "b", -1.0, 1.0)
    found = ji.frames.fit("sold ~ price", data, ji.Poisson(), by="store", var_weights="sure")
    names = [ji.Status(int(code)).name for code in found.fit.status]
    assert names == ["CONVERGED", "INVALID_DATA", "CONVERGED", "CONVERGED"]


def test_missing_values_spoil_their_own_group_alone():
    """Not the mean that others are centered by; nor is a category that a formula makes of nothing the first one."""
    data = simulate()
    gap = data.index[data.store == "b"][0]
    data.loc[gap, "price"] = np.nan
    found = ji.frames.fit("sold ~ center(price)", data, ji.Poisson(), by="store")
    assert [bool(good) for good in found.fit.converged] == [True, False, True, True]
    rest = ji.frames.fit("sold ~ center(price)", data.drop(gap), ji.Poisson(), by="store")
    np.testing.assert_array_equal(found.params.loc[["a", "c", "d"]], rest.params.loc[["a", "c", "d"]])
    assert found.predict(data).isna().sum() == (data.store == "b").sum()
    assert rest.predict(data)[data.index != gap].notna().all()
    assert np.isnan(rest.predict(data)[gap])
    unnamed = ji.frames.fit("sold ~ C(kind.map({'new': 'A', 'old': 'B'}))", data, ji.Poisson())
    assert unnamed.fit.status == ji.Status.INVALID_DATA


def test_a_level_that_a_group_never_had_is_not_predicted_in_it():
    data = simulate()
    data = data[(data.store != "a") | (data.kind != "used")]
    found = ji.frames.fit("sold ~ price + kind", data, ji.Poisson(), by="store")
    new = pd.DataFrame({"store": list("aaab"), "price": 0.0, "kind": ["new", "old", "used", "used"]})
    assert found.predict(new).isna().tolist() == [False, False, True, False]


def test_trials_by_the_name_of_a_column():
    data = simulate()
    data["kept"] = np.minimum(data.sold, data.days)
    named, given = (
        ji.frames.fit("kept ~ price", data, ji.Binomial(trials=trials), by="store").params
        for trials in ("days", data.days.to_numpy())
    )
    pd.testing.assert_frame_equal(named, given)


@pytest.mark.parametrize("package", ["pandas", "formulaic"])
def test_a_missing_package_is_named(monkeypatch, package):
    data = simulate()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'jaxirls\[frames\]'"):
        ji.frames.fit("sold ~ price", data, ji.Poisson())
