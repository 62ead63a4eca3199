"""Names of 0.1.0 still work for one version, and say what they are called now."""

import importlib
import warnings

import pytest

import seedbed as sb
from seedbed import renamed
from seedbed.rounds.mixing import topology_links
from seedbed.tree import same_structure


@pytest.mark.parametrize("old", sorted(renamed.modules()))
def test_every_old_module_is_found(old: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        stands_in = importlib.import_module(f"seedbed.{old}")
    with pytest.warns(DeprecationWarning, match=f"is now seedbed.{renamed.new_module(old)}"):
        importlib.reload(stands_in)


def test_every_old_name_stands_for_one_that_exists() -> None:
    for module, pairs in renamed.names().items():
        now = importlib.import_module(f"seedbed.{module}")
        assert [new for new in pairs.values() if not hasattr(now, new)] == [], module


def test_an_old_name_in_a_module_that_has_not_moved() -> None:
    with pytest.warns(DeprecationWarning, match="alike of seedbed.tree is now called same_structure"):
        from seedbed.tree import alike  # type: ignore[attr-defined]
    assert alike is same_structure


def test_an_old_name_at_the_top_level() -> None:
    with pytest.warns(DeprecationWarning, match="links_of"):
        assert sb.links_of is topology_links


def test_a_name_that_never_was_is_refused_as_ever() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from seedbed.tree import nothing  # type: ignore[attr-defined]  # noqa: F401
    with pytest.raises(AttributeError, match="nothing"):
        _ = sb.nothing
    with pytest.raises(ModuleNotFoundError, match=r"seedbed\.nothing"):
        importlib.import_module("seedbed.nothing")


def test_no_old_module_hides_a_name_of_its_package() -> None:
    """Importing a module sets it as an attribute of its package, if that has not moved."""
    for old in renamed.modules():
        package, _, name = old.rpartition(".")
        if renamed.new_module(package) == package and package:
            exports = importlib.import_module(f"seedbed.{package}").__dict__
            assert getattr(exports.get(name), "__name__", f"seedbed.{old}") == f"seedbed.{old}", old
