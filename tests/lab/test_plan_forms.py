"""Layouts that people and language models write: each is read whole, or refused with the form to write."""
# ruff: noqa: E501 - the plans stand as they come

import json
import sys

import pytest

from chunkwise.lab.plan.read import parse, render

# --- one entry in the words of the page form, and what people put in its place --------------------------------------

PAGE = """\
# Notes

## Ablation Plan

### Depth
- **Ablated Part**: encoder depth
- **Action**: REPLACE
- **Replacement**: 1, 4
- **Metrics**: perplexity
"""
OBJECT = {
    "name": "Depth",
    "ablated_part": "encoder depth",
    "action": "REPLACE",
    "replacement": ["1", "4"],
    "metrics": ["perplexity"],
}
LINE = json.dumps(OBJECT)
FIELDS = PAGE.split("### Depth\n")[1]
HEAD = "# Notes\n\n## Ablation Plan\n\n"
LAYOUTS = {
    "bold labels without bullets": PAGE.replace("- **", "**"),
    "plain labels without bullets": PAGE.replace("- **", "").replace("**", ""),
    "numbered name": PAGE.replace("### Depth", "1. **Depth**").replace("- **", "   - **"),
    "bold name": PAGE.replace("### Depth", "**Depth**"),
    "level 4": PAGE.replace("###", "####"),
    "heading Ablation Studies": PAGE.replace("Ablation Plan", "Ablation Studies"),
    "heading Proposed Ablations": PAGE.replace("Ablation Plan", "Proposed Ablations"),
    "no heading": "### Depth\n" + FIELDS,
    "Ablated component": PAGE.replace("Ablated Part", "Ablated component"),
    "Evaluation metrics": PAGE.replace("Metrics", "Evaluation metrics"),
    "Proposed replacement(s)": PAGE.replace("Replacement", "Proposed replacement(s)"),
    "Replace with": PAGE.replace("Replacement", "Replace with"),
    "Values": PAGE.replace("Replacement", "Values"),
    "replaced": PAGE.replace("REPLACE", "Replaced"),
    "ABLATE": PAGE.replace("REPLACE", "ABLATE"),
    "values behind the action": PAGE.replace("REPLACE\n- **Replacement**:", "Replace it with"),
    "table": HEAD + "| Name | Part | Action | Values | Metric |\n|--|--|--|--|--|\n"
    "| Depth | encoder depth | REPLACE | 1, 4 | perplexity |\n",
    "JSON in a fence": HEAD + f"```json\n[{LINE}]\n```\n",
    "predictions of a model": f"Two come to mind.\n\n<predictions>\n{LINE}\n</predictions>\n",
    "JSON lines behind prose": f"Here it is:\n\n{LINE}\n\nTell me if you need more.\n",
    "upstream's plans.json": json.dumps({"a_paper": {"predictions": LINE, "cost": 0.1}}),
    "object plan": json.dumps({"plan": [OBJECT]}),
    "object ablations": json.dumps({"ablations": [OBJECT]}),
    "YAML list": "- name: Depth\n  ablated_part: encoder depth\n  action: REPLACE\n"
    "  replacement: [1, 4]\n  metrics: [perplexity]\n",
    "LaTeX": HEAD
    + "\\subsection{Depth}\n\\begin{itemize}\n"
    + FIELDS.replace("- **", "\\item \\textbf{").replace("**:", "}:")
    + "\\end{itemize}\n",
}


def asked(text: str) -> list[tuple]:
    """What each entry asks for, apart from its name."""
    return [
        (entry.ablated_part, entry.action, [value.text for value in entry.replacements], list(entry.metrics))
        for entry in parse(text).entries
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_whole(layout):
    document = parse(LAYOUTS[layout])
    assert asked(LAYOUTS[layout]) == [("encoder depth", "REPLACE", ["1", "4"], ["perplexity"])]
    assert document.entries[0].name == "Depth" and document.exit_code == 0
    assert parse(render(document)).content() == document.content()


# --- two entries, as they come --------------------------------------------------------------------------------------

SIZE = ("size of the datastore", "REPLACE", ["half", "a tenth"], ["perplexity", "accuracy"])
RETRIEVER = ("retriever", "REMOVE", [], ["perplexity"])
DEPTH = ("encoder depth", "REPLACE", ["1", "4"], ["perplexity"])
GATE = ("the gate", "REMOVE", [], ["perplexity", "loss"])
SIZE_AND_RETRIEVER = {
    "Ablation n:": """\
# Notes on RETRO

Ablation 1: Store size
Component: size of the datastore
Action: REPLACE
Values: half, a tenth
Metrics: perplexity, accuracy

Ablation 2: Retriever
Component: retriever
Action: REMOVE
Metrics: perplexity
""",
    "kv blocks with rules": """\
Name: Store size
Ablated component: size of the datastore
Action: REPLACE
Replacements: half, a tenth
Evaluation metrics: perplexity, accuracy
---
Name: Retriever
Ablated component: retriever
Action: REMOVE
Evaluation metrics: perplexity
""",
    "table other columns": """\
# Notes on RETRO

## Planned ablations

| # | Metrics | Component | Change | Options | Name |
|---|---------|-----------|--------|---------|------|
| 1 | perplexity, accuracy | size of the datastore | Replace | half, a tenth | Store size |
| 2 | perplexity | retriever | Remove | – | Retriever |
""",
    "front matter": """\
---
title: lm/gpt/RETRO
model: gpt
---

## Ablation plan

### Store size
* *Ablated part:* size of the datastore
* *Action:* replace
* *Replacement:* half, a tenth
* *Metrics:* perplexity, accuracy

### Retriever
* *Ablated part:* retriever
* *Action:* remove
* *Metrics:* perplexity
""",
    "yaml front matter only": """\
---
title: RETRO
ablations:
  - name: Store size
    component: size of the datastore
    action: replace
    variants: [half, a tenth]
    metrics: [perplexity, accuracy]
  - name: Retriever
    component: retriever
    action: remove
    metrics: [perplexity]
---
""",
    "json camel": """\
{"title":"x","ablationPlan":[{"name":"Store size","ablatedPart":"size of the datastore","action":"Replace","options":["half","a tenth"],"evaluationMetrics":["perplexity","accuracy"]},
{"name":"Retriever","ablatedPart":"retriever","action":"remove","metrics":"perplexity"}]}""",
    "json component/variants no action": """\
[{"name":"Store size","component":"size of the datastore","variants":["half","a tenth"],"metrics":["perplexity","accuracy"]},
{"name":"Retriever","component":"retriever","action":"remove","metrics":["perplexity"]}]""",
    "json pretty after prose": """\
Sure, here are two ablations that the paper lacks:

[
  {
    "name": "Store size",
    "ablated_part": "size of the datastore",
    "action": "REPLACE",
    "replacement": ["half", "a tenth"],
    "metrics": ["perplexity", "accuracy"]
  },
  {
    "name": "Retriever",
    "ablated_part": "retriever",
    "action": "REMOVE",
    "metrics": ["perplexity"]
  }
]

Let me know if you want more.
""",
    "numbered with dashes": """\
# Notes on RETRO

## Proposed ablation studies

1) Store size
   – Ablated part – size of the datastore
   – Action – REPLACE
   – Replacement – half, a tenth
   – Metrics – perplexity, accuracy
2) Retriever
   – Ablated part – retriever
   – Action – REMOVE
   – Metrics – perplexity
""",
    "numbered hyphen lines": """\
Ablation plan

1. Store size
- Component: size of the datastore
- Action: REPLACE
- Values:
  * half
  * a tenth
- Metrics: perplexity, accuracy

2. Retriever
- Component: retriever
- Action: REMOVE
- Metrics: perplexity
""",
    "headings as labels": """\
# Notes on RETRO

## Ablation Plan

### Store size

#### Ablated part
size of the datastore

#### Action
REPLACE

#### Replacement
- half
- a tenth

#### Metrics
perplexity, accuracy

### Retriever

#### Ablated part
retriever

#### Action
REMOVE

#### Metrics
perplexity
""",
    "groups": """\
# Notes on RETRO

## Ablation Plan

### Data

#### Store size
- **Ablated Part**: size of the datastore
- **Action**: REPLACE
- **Replacement**: half, a tenth
- **Metrics**: perplexity, accuracy

### Model

#### Retriever
- **Ablated Part**: retriever
- **Action**: REMOVE
- **Metrics**: perplexity
""",
    "markdown fence": """\
Here is the plan.

```markdown
# Notes on RETRO

## Ablation Plan

### Store size
- **Ablated Part**: size of the datastore
- **Action**: REPLACE
- **Replacement**: half, a tenth
- **Metrics**: perplexity, accuracy

### Retriever
- **Ablated Part**: retriever
- **Action**: REMOVE
- **Metrics**: perplexity
```

Good luck!
""",
    "setext": """\
Plan for RETRO
==============

Ablation Plan
-------------

### Store size
- Ablated Part: size of the datastore
- Action: REPLACE
- Replacement: half, a tenth
- Metrics: perplexity, accuracy

### Retriever
- Ablated Part: retriever
- Action: REMOVE
- Metrics: perplexity
""",
    "html table": """\
<h2>Ablations</h2>
<table>
  <thead><tr><th>Name</th><th>Component</th><th>Action</th><th>Replacement</th><th>Metrics</th></tr></thead>
  <tbody>
  <tr>
    <td>Store size</td>
    <td>size of the datastore</td>
    <td>REPLACE</td>
    <td>half<br>a tenth</td>
    <td>perplexity, accuracy</td>
  </tr>
  <tr><td>Retriever</td><td>retriever</td><td>REMOVE</td><td></td><td>perplexity</td></tr>
  </tbody>
</table>
""",
    "discussion+predictions": """\
<discussion>
The paper never varies its datastore.
</discussion>
<predictions>
{"name": "Store size", "ablated_part": "size of the datastore", "action": "REPLACE", "replacement": ["half", "a tenth"], "metrics": ["perplexity", "accuracy"]}
{"name": "Retriever", "ablated_part": "retriever", "action": "REMOVE", "metrics": ["perplexity"]}
</predictions>
""",
    "table per entry": """\
## Ablation Plan

### Store size

| Field | Value |
|---|---|
| Ablated part | size of the datastore |
| Action | REPLACE |
| Replacement | half, a tenth |
| Metrics | perplexity, accuracy |

### Retriever

| Field | Value |
|---|---|
| Ablated part | retriever |
| Action | REMOVE |
| Metrics | perplexity |
""",
    "latex enumerate nested": """\
\\section{Ablation plan}
\\begin{enumerate}
  \\item \\textbf{Store size}
  \\begin{itemize}
    \\item Ablated part: size of the datastore
    \\item Action: REPLACE
    \\item Replacement: half, a tenth
    \\item Metrics: perplexity, accuracy
  \\end{itemize}
  \\item \\textbf{Retriever}
  \\begin{itemize}
    \\item Ablated part: retriever
    \\item Action: REMOVE
    \\item Metrics: perplexity
  \\end{itemize}
\\end{enumerate}
""",
    "heading Ablation plan for X": """\
# Ablation plan for InstructRetro

## 1. Store size
- **Component:** size of the datastore
- **Action:** Replaced
- **Replace with:** half, a tenth
- **Evaluation metric(s):** perplexity, accuracy

## 2. Retriever
- **Component:** retriever
- **Action:** Removed entirely
- **Evaluation metric(s):** perplexity
""",
    "yaml mapping by name": """\
ablations:
  Store size:
    part: size of the datastore
    action: replace
    replacement:
      - half
      - a tenth
    metrics: [perplexity, accuracy]
  Retriever:
    part: retriever
    action: remove
    metrics: perplexity
""",
    "one line each": """\
# Notes on RETRO

## Ablation Plan

1. Ablated part: size of the datastore; Action: REPLACE; Replacement: half, a tenth; Metrics: perplexity, accuracy
2. Ablated part: retriever; Action: REMOVE; Metrics: perplexity
""",
    "nested under component": """\
# Notes on RETRO

## Ablations

- Component: size of the datastore
  - Action: replace
  - Replacement:
    - half
    - a tenth
  - Metrics: perplexity, accuracy
- Component: retriever
  - Action: remove
  - Metrics: perplexity
""",
    "csv": """\
name,ablated_part,action,replacement,metrics
Store size,size of the datastore,REPLACE,"half, a tenth","perplexity, accuracy"
Retriever,retriever,REMOVE,,perplexity
""",
}
DEPTH_AND_GATE = {
    "bold whole-line labels": """\
## Suggested Ablations

### Depth
**Component: encoder depth**
**Action: REPLACE**
**Options: 1, 4**
**Metrics: perplexity**

### Gate
**Component: the gate**
**Action: REMOVE**
**Metrics: perplexity, loss**
""",
    "numbered bold with colon and text": """\
# Ablation Studies

1. **Depth:** How deep must the encoder be?
   - *Component*: encoder depth
   - *Action*: Vary
   - *Values*: 1, 4
   - *Metric*: perplexity

2. **Gate:** Is it needed?
   - *Component*: the gate
   - *Action*: Remove
   - *Metrics*: perplexity, loss
""",
    "experiment n bold": """\
**Experiment 1 – Depth**
Target component: encoder depth
Operation: replace
Variants: 1, 4
Evaluation: perplexity

**Experiment 2 – Gate**
Target component: the gate
Operation: remove
Evaluation: perplexity, loss
""",
    "H2 below H1 plan": """\
# Ablation Plan

## Depth
- Ablated Part: encoder depth
- Action: REPLACE
- Replacement:
    1. 1
    2. 4
- Metrics:
    - perplexity

## Gate
- Ablated Part: the gate
- Action: REMOVE
- Metrics:
    - perplexity
    - loss
""",
    "H2 below H2 plan": """\
## Ablation Plan

## Depth
- **Ablated Part**: encoder depth
- **Action**: REPLACE
- **Replacement**: 1, 4
- **Metrics**: perplexity

## Gate
- **Ablated Part**: the gate
- **Action**: REMOVE
- **Metrics**: perplexity, loss
""",
    "with overview and conclusion": """\
## Ablation Plan

### Overview
We look at two parts.

### Depth
- **Ablated Part**: encoder depth
- **Action**: REPLACE
- **Replacement**: 1, 4
- **Metrics**: perplexity

### Gate
- **Ablated Part**: the gate
- **Action**: REMOVE
- **Metrics**: perplexity, loss

### Expected outcomes
Both matter.
""",
    "jsonl with ids": """\
{"id":"A1","name":"Depth","component":"encoder depth","operation":"replace","replacements":["1","4"],"metric":"perplexity"}
{"id":"A2","name":"Gate","component":"the gate","operation":"remove","metric":["perplexity","loss"]}
""",
    "json nested studies": """\
{"paper":"RETRO","ablation_studies":{"Depth":{"ablated_component":"encoder depth","action":"REPLACE","alternatives":[1,4],"metrics":["perplexity"]},"Gate":{"ablated_component":"the gate","action":"REMOVE","metrics":["perplexity","loss"]}}}""",
    "json fenced in prose no head": """\
Below are the ablations.

```json
{
  "ablations": [
    {"name": "Depth", "part": "encoder depth", "action": "REPLACE", "options": ["1", "4"], "metrics": ["perplexity"]},
    {"name": "Gate", "part": "the gate", "action": "REMOVE", "metrics": ["perplexity", "loss"]},
  ]
}
```
""",
    "yaml fenced": """\
Here you go:

```yaml
- name: Depth
  component: encoder depth
  action: replace
  values: [1, 4]
  metrics: [perplexity]
- name: Gate
  component: the gate
  action: remove
  metrics: [perplexity, loss]
```
""",
    "python dicts": """\
[{'name': 'Depth', 'ablated_part': 'encoder depth', 'action': 'REPLACE', 'replacement': ['1', '4'], 'metrics': ['perplexity']},
 {'name': 'Gate', 'ablated_part': 'the gate', 'action': 'REMOVE', 'metrics': ['perplexity', 'loss']}]""",
    "table no edges": """\
Proposed ablations

Component | Action | Values | Metrics
--- | --- | --- | ---
encoder depth | vary | 1, 4 | perplexity
the gate | remove | n/a | perplexity, loss
""",
    "table ablation column": """\
| Ablation | What changes | Replace with | Metric(s) |
|:--|:--:|:--|--:|
| encoder depth | REPLACE | 1, 4 | perplexity |
| the gate | REMOVE | | perplexity, loss |
""",
    "star bullets indented": """\
### Ablation plan

* **Depth**
    * Ablated part: encoder depth
    * Action: REPLACE
    * Replacement: 1; 4
    * Metrics: perplexity
* **Gate**
    * Ablated part: the gate
    * Action: REMOVE
    * Metrics: perplexity, loss
""",
    "label lines no names": """\
Ablated part: encoder depth
Action: replace
Replacement: 1, 4
Metrics: perplexity

Ablated part: the gate
Action: remove
Metrics: perplexity, loss
""",
    "labels with arrow": """\
## Ablations

### Depth
- Part → encoder depth
- Action → REPLACE with 1, 4
- Metrics → perplexity

### Gate
- Part → the gate
- Action → REMOVE the gate
- Metrics → perplexity, loss
""",
    "html dl": """\
<h2>Ablation Plan</h2>
<h3>Depth</h3>
<p><b>Ablated Part:</b> encoder depth<br/>
<b>Action:</b> REPLACE<br/>
<b>Replacement:</b> 1, 4<br/>
<b>Metrics:</b> perplexity</p>
<h3>Gate</h3>
<p><b>Ablated Part:</b> the gate<br/><b>Action:</b> REMOVE<br/><b>Metrics:</b> perplexity, loss</p>
""",
    "latex sections": """\
\\section*{Ablation Studies}
\\subsection{Depth}
\\textbf{Ablated part:} encoder depth\\\\
\\textbf{Action:} REPLACE\\\\
\\textbf{Replacement:} 1, 4\\\\
\\textbf{Metrics:} perplexity
\\subsection{Gate}
\\textbf{Ablated part:} the gate\\\\
\\textbf{Action:} REMOVE\\\\
\\textbf{Metrics:} perplexity, loss
""",
    "blockquote": """\
## Ablation Plan

> ### Depth
> - **Ablated Part**: encoder depth
> - **Action**: REPLACE
> - **Replacement**: 1, 4
> - **Metrics**: perplexity
>
> ### Gate
> - **Ablated Part**: the gate
> - **Action**: REMOVE
> - **Metrics**: perplexity, loss
""",
    "rationale after": """\
## Ablation Plan

**1. Depth**

Ablated Component: encoder depth

Action: REPLACE

Replacement(s): 1, 4

Metrics: perplexity

**2. Gate**

Ablated Component: the gate

Action: REMOVE

Metrics: perplexity, loss
""",
}


@pytest.mark.parametrize("text", SIZE_AND_RETRIEVER.values(), ids=SIZE_AND_RETRIEVER)
def test_size_and_retriever_are_read_whole(text):
    document = parse(text)
    assert asked(text) == [SIZE, RETRIEVER] and document.exit_code == 0
    assert parse(render(document)).content() == document.content()


@pytest.mark.parametrize("text", DEPTH_AND_GATE.values(), ids=DEPTH_AND_GATE)
def test_depth_and_gate_are_read_whole(text):
    document = parse(text)
    assert asked(text) == [DEPTH, GATE] and document.exit_code == 0
    assert parse(render(document)).content() == document.content()


# --- three entries, in twenty layouts that were written before any of them was tried --------------------------------

SHARES = ("retrieval database size", "REPLACE", ["50%", "25%"], ["perplexity", "EM"])
TWIN = ("chunked cross-attention", "REMOVE", [], ["perplexity"])
COUNTS = ("number of neighbours", "REPLACE", ["1", "4"], ["zero-shot QA accuracy"])
THREE = {
    "gfm task list": """\
# Plan

## Ablation Plan

- [ ] **Database size**
  - Ablated part: retrieval database size
  - Action: REPLACE
  - Replacement: 50%, 25%
  - Metrics: perplexity, EM
- [ ] **Without CCA**
  - Ablated part: chunked cross-attention
  - Action: REMOVE
  - Metrics: perplexity
- [x] **Neighbours**
  - Ablated part: number of neighbours
  - Action: REPLACE
  - Replacement: 1, 4
  - Metrics: zero-shot QA accuracy
""",
    "details/summary html": """\
<h1>Ablations</h1>
<details><summary>1. Database size</summary>
<ul><li>Component: retrieval database size</li><li>Action: REPLACE</li><li>Values: 50%, 25%</li><li>Metrics: perplexity, EM</li></ul>
</details>
<details><summary>2. Without CCA</summary>
<ul><li>Component: chunked cross-attention</li><li>Action: REMOVE</li><li>Metrics: perplexity</li></ul>
</details>
<details><summary>3. Neighbours</summary>
<ul><li>Component: number of neighbours</li><li>Action: REPLACE</li><li>Values: 1, 4</li><li>Metrics: zero-shot QA accuracy</li></ul>
</details>""",
    "definition list html": """\
<h2>Ablation plan</h2>
<h3>Database size</h3><dl><dt>Ablated part</dt><dd>retrieval database size</dd><dt>Action</dt><dd>REPLACE</dd><dt>Replacement</dt><dd>50%, 25%</dd><dt>Metrics</dt><dd>perplexity, EM</dd></dl>
<h3>Without CCA</h3><dl><dt>Ablated part</dt><dd>chunked cross-attention</dd><dt>Action</dt><dd>REMOVE</dd><dt>Metrics</dt><dd>perplexity</dd></dl>
<h3>Neighbours</h3><dl><dt>Ablated part</dt><dd>number of neighbours</dd><dt>Action</dt><dd>REPLACE</dd><dt>Replacement</dt><dd>1, 4</dd><dt>Metrics</dt><dd>zero-shot QA accuracy</dd></dl>""",
    "inline pipes": """\
## Proposed ablations

1. **Database size** | Part: retrieval database size | Action: REPLACE | Replacement: 50%, 25% | Metrics: perplexity, EM
2. **Without CCA** | Part: chunked cross-attention | Action: REMOVE | Metrics: perplexity
3. **Neighbours** | Part: number of neighbours | Action: REPLACE | Replacement: 1, 4 | Metrics: zero-shot QA accuracy
""",
    "semicolon lines": """\
Ablation plan
- Component: retrieval database size; Action: REPLACE; Replacement: 50%, 25%; Metrics: perplexity, EM
- Component: chunked cross-attention; Action: REMOVE; Metrics: perplexity
- Component: number of neighbours; Action: REPLACE; Replacement: 1, 4; Metrics: zero-shot QA accuracy
""",
    "transposed table": """\
## Ablation Plan

| | A1 | A2 | A3 |
|---|---|---|---|
| Ablated part | retrieval database size | chunked cross-attention | number of neighbours |
| Action | REPLACE | REMOVE | REPLACE |
| Replacement | 50%, 25% | - | 1, 4 |
| Metrics | perplexity, EM | perplexity | zero-shot QA accuracy |
""",
    "table without outer pipes": """\
## Ablation Plan

Name | Ablated part | Action | Replacement | Metrics
--- | --- | --- | --- | ---
Database size | retrieval database size | REPLACE | 50%, 25% | perplexity, EM
Without CCA | chunked cross-attention | REMOVE | | perplexity
Neighbours | number of neighbours | REPLACE | 1, 4 | zero-shot QA accuracy
""",
    "table lower case actions, what/why": """\
### Ablations

| ID | What is ablated | Operation | Variants | Why | Evaluation metrics |
|:--|:--|:-:|:--|:--|:--|
| A1 | retrieval database size | replace | 50% / 25% | cost | perplexity; EM |
| A2 | chunked cross-attention | remove | n/a | mechanism | perplexity |
| A3 | number of neighbours | replace | 1 / 4 | speed | zero-shot QA accuracy |
""",
    "yaml nested ids": """\
ablations:
  database-size:
    component: retrieval database size
    action: replace
    values: ["50%", "25%"]
    metrics: [perplexity, EM]
  without-cca:
    component: chunked cross-attention
    action: remove
    metrics: [perplexity]
  neighbours:
    component: number of neighbours
    action: replace
    values: [1, 4]
    metrics: [zero-shot QA accuracy]
""",
    "yaml experiment config": """\
experiment:
  name: my ablations
  studies:
    - id: A1
      target: {component: retrieval database size}
      action: REPLACE
      with: [50%, 25%]
      metrics: [perplexity, EM]
    - id: A2
      target: {component: chunked cross-attention}
      action: REMOVE
      metrics: [perplexity]
    - id: A3
      target: {component: number of neighbours}
      action: REPLACE
      with: [1, 4]
      metrics: [zero-shot QA accuracy]
""",
    "json by name": """\
{
 "ablation_plan": {
  "Database size": {
   "ablated_part": "retrieval database size",
   "action": "REPLACE",
   "replacement": [
    "50%",
    "25%"
   ],
   "metrics": [
    "perplexity",
    "EM"
   ]
  },
  "Without CCA": {
   "ablated_part": "chunked cross-attention",
   "action": "REMOVE",
   "replacement": [],
   "metrics": [
    "perplexity"
   ]
  },
  "Neighbours": {
   "ablated_part": "number of neighbours",
   "action": "REPLACE",
   "replacement": [
    1,
    4
   ],
   "metrics": [
    "zero-shot QA accuracy"
   ]
  }
 }
}""",
    "json replacements as objects": """\
{
 "ablations": [
  {
   "name": "Database size",
   "component": "retrieval database size",
   "action": "REPLACE",
   "replacements": [
    {
     "value": "50%",
     "rationale": "half"
    },
    {
     "value": "25%",
     "rationale": "quarter"
    }
   ],
   "metrics": [
    {
     "name": "perplexity"
    },
    {
     "name": "EM"
    }
   ]
  },
  {
   "name": "Without CCA",
   "component": "chunked cross-attention",
   "action": "REMOVE",
   "metrics": [
    {
     "name": "perplexity"
    }
   ]
  },
  {
   "name": "Neighbours",
   "component": "number of neighbours",
   "action": "REPLACE",
   "replacements": [
    {
     "value": 1
    },
    {
     "value": 4
    }
   ],
   "metrics": [
    {
     "name": "zero-shot QA accuracy"
    }
   ]
  }
 ]
}""",
    "json camelCase tool call": """\
I'll call the tool.

```json
{
  "tool": "submit_plan",
  "arguments": {
    "ablations": [
      {
        "title": "Database size",
        "ablatedPart": "retrieval database size",
        "action": "REPLACE",
        "replacements": [
          "50%",
          "25%"
        ],
        "evaluationMetrics": [
          "perplexity",
          "EM"
        ]
      },
      {
        "title": "Without CCA",
        "ablatedPart": "chunked cross-attention",
        "action": "REMOVE",
        "replacements": null,
        "evaluationMetrics": [
          "perplexity"
        ]
      },
      {
        "title": "Neighbours",
        "ablatedPart": "number of neighbours",
        "action": "REPLACE",
        "replacements": [
          "1",
          "4"
        ],
        "evaluationMetrics": [
          "zero-shot QA accuracy"
        ]
      }
    ]
  }
}
```
Let me know!""",
    "llm answer, python list": """\
Sure! Here are three ablations:

```python
ablations = [
    {"ablated_part": "retrieval database size", "action": "REPLACE", "replacement": ["50%", "25%"], "metrics": ["perplexity", "EM"]},
    {"ablated_part": "chunked cross-attention", "action": "REMOVE", "replacement": None, "metrics": ["perplexity"]},
    {"ablated_part": "number of neighbours", "action": "REPLACE", "replacement": ["1", "4"], "metrics": ["zero-shot QA accuracy"]},
]
```
""",
    "llm answer, headings with emoji and rules": """\
Here's a focused plan 👇

---

### 🧪 Ablation 1: Database size
**🎯 Ablated Part:** retrieval database size
**⚙️ Action:** REPLACE
**🔁 Replacement:** 50%, 25%
**📏 Metrics:** perplexity, EM

---

### 🧪 Ablation 2: Without CCA
**🎯 Ablated Part:** chunked cross-attention
**⚙️ Action:** REMOVE
**📏 Metrics:** perplexity

---

### 🧪 Ablation 3: Neighbours
**🎯 Ablated Part:** number of neighbours
**⚙️ Action:** REPLACE
**🔁 Replacement:** 1, 4
**📏 Metrics:** zero-shot QA accuracy
""",
    "grouped headings, goals between": """\
# Ablations of my model

## Group A: datastore

### A1. Database size
Goal: see what size is worth.

* Ablated component: retrieval database size
* Action: REPLACE
* Replacement: 50%, 25%
* Metrics: perplexity, EM

## Group B: model

### B1. Without CCA
Goal: see the mechanism.

* Ablated component: chunked cross-attention
* Action: REMOVE
* Metrics: perplexity

### B2. Neighbours
* Ablated component: number of neighbours
* Action: REPLACE
* Replacement: 1, 4
* Metrics: zero-shot QA accuracy
""",
    "second chapter after the plan head": """\
# Plan

## Ablation Plan

### Database size
- **Ablated Part**: retrieval database size
- **Action**: REPLACE
- **Replacement**: 50%, 25%
- **Metrics**: perplexity, EM

## Model

### Without CCA
- **Ablated Part**: chunked cross-attention
- **Action**: REMOVE
- **Metrics**: perplexity

### Neighbours
- **Ablated Part**: number of neighbours
- **Action**: REPLACE
- **Replacement**: 1, 4
- **Metrics**: zero-shot QA accuracy
""",
    "org mode": """\
* Ablation plan
** Database size
   - Ablated part :: retrieval database size
   - Action :: REPLACE
   - Replacement :: 50%, 25%
   - Metrics :: perplexity, EM
** Without CCA
   - Ablated part :: chunked cross-attention
   - Action :: REMOVE
   - Metrics :: perplexity
** Neighbours
   - Ablated part :: number of neighbours
   - Action :: REPLACE
   - Replacement :: 1, 4
   - Metrics :: zero-shot QA accuracy
""",
    "rst": """\
Ablation plan
=============

Database size
-------------

:Ablated part: retrieval database size
:Action: REPLACE
:Replacement: 50%, 25%
:Metrics: perplexity, EM

Without CCA
-----------

:Ablated part: chunked cross-attention
:Action: REMOVE
:Metrics: perplexity

Neighbours
----------

:Ablated part: number of neighbours
:Action: REPLACE
:Replacement: 1, 4
:Metrics: zero-shot QA accuracy
""",
}


@pytest.mark.parametrize("text", THREE.values(), ids=THREE)
def test_three_entries_are_read_whole(text):
    document = parse(text)
    assert asked(text) == [SHARES, TWIN, COUNTS] and document.exit_code == 0
    assert parse(render(document)).content() == document.content()


def test_another_chapter_ends_no_plan_and_is_no_entry_itself():
    text = PAGE + "\n## Setup\nAll runs share seeds.\n\n### Gate\n- **Ablated Part**: the gate\n- **Action**: REMOVE\n"
    assert [entry.name for entry in parse(text).entries] == ["Depth", "Gate"]
    assert [entry.name for entry in parse(PAGE + "\n## Costs\n- Budget: 10 days\n").entries] == ["Depth"]
    # What is meant to be an entry there is reported, as in the plan itself.
    broken = parse(text + "\n### Seeds\n- **Action**: REMOVE\n")
    assert [remark.code for remark in broken.diagnostics if remark.severity == "error"] == ["no-part"]
    assert parse(PAGE + "\n## Costs\n\n### Seeds\nThree.\n").exit_code == 0


def test_an_object_for_a_value_is_the_value_only_where_the_rest_explains_it():
    def replacement(value):
        return [each.text for each in parse(json.dumps([OBJECT | {"replacement": [value]}])).entries[0].replacements]

    assert replacement({"value": 4, "rationale": "cheap"}) == ["4"] and replacement({"option": "random"}) == ["random"]
    for whole in (
        {"value": 600, "unit": "B tokens"}, {"value": "half", "dataset": "C4"}, {"value": 1, "name": "x"},
        {"value": [1, 2]}, {"neighbours": 4},
    ):  # fmt: skip
        assert replacement(whole) == [json.dumps(whole)]
    # What a metric is on stays with the entry, where the resolver finds it.
    (entry,) = parse(json.dumps([OBJECT | {"metrics": [{"name": "EM", "dataset": "NQ"}]}])).entries
    assert entry.metrics == ("EM",) and entry.notes == ("dataset: NQ",)


def test_a_definition_list_is_labels_whatever_is_bold_in_it():
    terms = "<dl>\n<dt><b>Part:</b></dt>\n<dd>the <b>gate</b></dd>\n<dt>Action</dt><dd>REMOVE</dd></dl>"
    assert asked(f"<h3>Gate</h3>{terms}") == [("the **gate**", "REMOVE", [], [])]


def test_what_python_prints_is_an_object():
    line = "    {'name': 'Gate', 'ablated_part': 'the gate', 'action': 'REMOVE', 'replacement': None},".replace(
        "'", '"'
    )
    assert asked(f"ablations = [\n{line}\n]\n") == [("the gate", "REMOVE", [], [])]


def test_a_name_is_the_line_above_an_entry():
    numbered = [entry.name for entry in parse(SIZE_AND_RETRIEVER["Ablation n:"]).entries]
    assert numbered == ["Ablation 1: Store size", "Ablation 2: Retriever"]
    assert [entry.name for entry in parse(DEPTH_AND_GATE["numbered bold with colon and text"]).entries] == [
        "Depth",
        "Gate",
    ]
    assert [entry.name for entry in parse(SIZE_AND_RETRIEVER["groups"]).entries] == ["Store size", "Retriever"]


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "We would remove the retriever and look at the perplexity.\n",
        HEAD + "1. **retriever** — REMOVE — perplexity\n",
        HEAD + "### Gate\nWe close it.\n",
        '{"budget": "10 days", "seeds": 3}',
        '[[ablation]]\nname = "Depth"\npart = "encoder depth"\naction = "REMOVE"\n',
    ],
)
def test_what_cannot_be_read_is_refused_with_the_form(text):
    document = parse(text)
    assert document.entries == () and document.exit_code == 2
    messages = [remark.message for remark in document.diagnostics if remark.severity == "error"]
    assert "'### Name'" in messages[0] and "'- **Ablated Part**: ...'" in messages[0]


@pytest.mark.parametrize(
    "action",
    [
        "Remove half of the layers",
        "REMOVE (only layers 2 and 3)",
        "Do not remove",
        "REMOVE / REPLACE",
        "Changed by 10%",
        "Remove and replace with a smaller one",
        "Turn it on",
    ],
)
def test_an_action_that_says_more_is_no_action(action):
    document = parse(f"## Ablation Plan\n### E\n- **Ablated Part**: encoder depth\n- **Action**: {action}\n")
    assert document.entries == ()
    assert [(d.severity, d.code) for d in document.diagnostics] == [("error", "bad-action")]


@pytest.mark.parametrize(
    ("action", "read", "values"),
    [
        ("Remove it entirely", "REMOVE", []),
        ("Remove the encoder from the model", "REMOVE", []),
        ("turned off", "REMOVE", []),
        ("Ablate", "REMOVE", []),
        ("Add it", "ADD", []),
        ("REPLACE with 50%, 25%", "REPLACE", ["50%", "25%"]),
        ("Replaced by: BM25", "REPLACE", ["BM25"]),
        ("REPLACE (1, 4)", "REPLACE", ["1", "4"]),
        ("Replace the encoder with a mean", "REPLACE", ["a mean"]),
    ],
)
def test_an_action_in_words(action, read, values):
    document = parse(f"## Ablation Plan\n### E\n- Ablated part: encoder\n- Action: {action}\n- Metrics: loss")
    entry = document.entries[0]
    assert (entry.action, [value.text for value in entry.replacements]) == (read, values)
    assert [d.code for d in document.diagnostics if d.severity == "note"] == ["action-synonym"]


def test_labels_about_something_else_are_no_values():
    text = PAGE + "- **Baseline values**: 2\n- **Type**: architecture\n"
    document = parse(text)
    assert asked(text) == [DEPTH]
    assert document.entries[0].extra == {"Baseline values": ("2",), "Type": ("architecture",)}
    assert [d.code for d in document.diagnostics] == ["unknown-label", "unknown-label"]


def test_a_weak_label_stands_where_no_better_one_does():
    weak = PAGE.replace("Ablated Part", "Target").replace("Action", "Type").replace("Metrics", "Evaluation")
    assert asked(weak) == [DEPTH]


def test_what_is_kept_aside_is_named():
    text = PAGE + "\nIt ran before.\n"
    notes = [(d.code, "'It ran before.'" in d.message) for d in parse(text).diagnostics]
    assert notes == [("kept-as-note", True)]
    keys = parse(json.dumps({"plan": [OBJECT], "budget": 3})).diagnostics
    assert [(d.code, "budget" in d.message) for d in keys] == [("unknown-key", True)]


def test_labels_above_the_first_entry_are_named():
    text = PAGE.replace("### Depth", "Metrics: accuracy for all of them\n\n### Depth")
    assert asked(text) == [DEPTH]
    assert [(d.severity, d.code, d.line) for d in parse(text).diagnostics] == [("warning", "not-an-entry", 5)]


def test_replacements_without_an_action_are_read_as_replace_with_a_warning():
    document = parse(json.dumps([{"component": "encoder depth", "options": [1, 4], "metrics": "loss"}]))
    assert document.entries[0].action == "REPLACE"
    assert [(d.severity, d.code) for d in document.diagnostics] == [("warning", "action-inferred")]


def test_a_list_that_breaks_off_keeps_its_entries_and_reports_the_rest():
    document = parse(f"Plan:\n[{LINE},\n{LINE[:40]}")
    assert [entry.name for entry in document.entries] == ["Depth"]
    assert [(d.code, d.line) for d in document.diagnostics] == [("not-an-entry", 3)] and document.exit_code == 3


def test_entries_of_one_heading_are_not_joined():
    text = PAGE + "- **Ablated Part**: the gate\n- **Action**: REMOVE\n- **Metrics**: perplexity, loss\n"
    assert asked(text) == [DEPTH, GATE]


# --- work -----------------------------------------------------------------------------------------------------------


def steps(text: str) -> int:
    """Lines of the reader's code that run while a text is read; each turn of a loop is one."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if "lab/plan" not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parse(text)
    finally:
        sys.settrace(before)
    return count


MANY = {
    "one name": lambda n: HEAD + "### a\n- **Ablated Part**: p\n- **Action**: REMOVE\n" * n,
    "different names": lambda n: (
        HEAD + "".join(f"### e{i}\n- **Ablated Part**: p\n- **Action**: REMOVE\n" for i in range(n))
    ),
    "JSON lines": lambda n: (LINE + "\n") * n,
    "JSON lines in a fence": lambda n: HEAD + "```\n" + (LINE + "\n") * n + "```\n",
    "labels alone": lambda n: "Component: p\nAction: REMOVE\n\n" * n,
    "bold names": lambda n: HEAD + "**a**\n- Component: p\n- Action: REMOVE\n\n" * n,
    "table": lambda n: HEAD + "| Part | Action |\n|---|---|\n" + "| p | REMOVE |\n" * n,
    "notes": lambda n: PAGE + "a line\n" * n,
    "broken objects": lambda n: '{"a": \n' * n,
}


@pytest.mark.parametrize("make", MANY.values(), ids=MANY)
def test_twice_the_text_is_twice_the_work(make):
    few, many = steps(make(40)), steps(make(80))
    assert few < many < 2.1 * few


HOSTILE = {
    "heading of spaces": HEAD + "### a" + " " * 900_000 + "x",
    "heading of hashes": HEAD + "### a " + "# " * 450_000 + "x",
    "heading of numbers": HEAD + "### a " + "1 " * 450_000 + "x",
    "open lists": "plan:\n" + "[\n" * 200_000,
    "open tables": "<table" * 150_000,
    "rows": "| a " * 200_000,
    "labels on a line": PAGE.replace("REPLACE", "REPLACE; Values: 1 " * 20_000),
    "quotes": "> " * 450_000,
    "long CSV": "part,action\n" + "x" * 900_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_layouts_take_seconds_at_most(text):
    parse(text)
