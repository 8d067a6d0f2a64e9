"""docs/plans.md: its overrides are accepted and mean what the page says, its ranges are the code's."""

import re
from pathlib import Path

from chunkwise.lab.plan.read import parse
from chunkwise.lab.profile import load_profile
from chunkwise.lab.resolve.arms.overrides import load_overrides
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.study import estimate

PAGE = (Path(__file__).parent.parent.parent / "docs" / "plans.md").read_text(encoding="utf-8")
PLAN = """# Ablations of InstructRetro
## Ablation Plan
### Depth of the reader
- **Ablated Part**: the reader, from its first block to its last
- **Action**: REPLACE
- **Replacement**: 1
- **Metrics**: perplexity
### Where it looks
- **Ablated Part**: the blocks that look
- **Action**: REPLACE
- **Replacement**:
  - only near the top
  - at the second and the fourth block
- **Metrics**: perplexity
"""


def test_the_overrides_of_the_page_answer_what_no_rule_finds(tmp_path):
    document, profile = parse(PLAN), load_profile("evening")
    assert resolve(document, profile).exit_code == 2
    file = tmp_path / "answers.yaml"
    file.write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    resolution = resolve(document, profile, overrides=load_overrides(file))
    assert resolution.exit_code == 0
    assert [arm.changes for arm in resolution.arms.values()] == [
        {"retrofit.retro.encoder_layers": 1},
        {"retrofit.retro.cca_layers": "last"},
        {"retrofit.retro.cca_layers": [2, 4]},
    ]


def test_the_ranges_are_those_that_are_given():
    table = re.findall(
        r"^\| [a-z].*\| (?:a factor of )?([\d.]+)(?: either way)?(?:, or their own spread)? \|$", PAGE, re.M
    )
    ranges = [estimate.SAME_STUDY, estimate.SAME_MACHINE, estimate.GUESS, estimate.OTHER_MACHINE]
    assert [float(number) for number in table[-4:]] == ranges
