"""The parser knows the type of every setting of every verb, so that values are checked and flags work."""

from __future__ import annotations

import pytest

from svfap.cli.main import main
from svfap.cli.parser import Parser, add_settings, load
from svfap.cli.verbs import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_the_type_of_every_setting_is_known(verb):
    parser = Parser()
    add_settings(parser, load(VERBS[verb].config))
    for action in parser._actions:
        # jsonargparse resolves the types of inherited fields in the module of the class that inherits them.
        assert "Unvalidated" not in str(getattr(action, "_typehint", None)), action.dest


@pytest.mark.parametrize("verb", ["predict", "extract", "evaluate"])
@pytest.mark.parametrize("value", ["fast", "own25"])
def test_a_rate_is_a_number_or_own(verb, value, capsys):
    positional = [] if verb == "evaluate" else ["video.mp4"]
    with pytest.raises(SystemExit):
        main([verb, *positional, "--model", "runs/x", "--fps", value])
    assert "--fps" in capsys.readouterr().err
