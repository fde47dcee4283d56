"""What a run records of its settings, and what is added to an older run's record."""

import dataclasses

from jaxnas.settings import completed, recorded, setting


@dataclasses.dataclass(frozen=True)
class Inputs:
  size: int = setting(4, "there from the beginning")
  side: int | None = setting(None, "came later", later=True)


@dataclasses.dataclass(frozen=True)
class Search:
  inputs: Inputs = Inputs()
  rounds: int = setting(3, "there from the beginning")
  within: str = setting("all", "came later", later=True)


def test_all_settings_are_recorded_also_those_at_their_defaults():
  assert recorded(Search()) == {"size": 4, "side": None, "rounds": 3, "within": "all"}
  assert recorded(Search(Inputs(side=8), within="some")) == {"size": 4, "side": 8, "rounds": 3, "within": "some"}


def test_an_older_record_is_completed_by_what_came_later():
  assert completed({"size": 5, "rounds": 3}, Search) == {"size": 5, "rounds": 3, "side": None, "within": "all"}
  assert completed({"size": 4, "side": 8}, Search) == {"size": 4, "side": 8, "within": "all"}


def test_a_record_of_a_run_without_these_settings_stays():
  """Else scores of other proxies would bind a proxy that they have nothing to do with."""
  assert completed({"other": 1}, Search) == {"other": 1}


def test_what_did_not_come_later_is_not_added():
  assert "rounds" not in completed({"size": 5}, Search)
