"""Instructions for raters: the five types, and the conventions that make two people mark the same thing alike (paper,
B.1.2 and B.1.3). The page shows them beside the buttons and behind "What counts".
"""

from __future__ import annotations

from reward_model.schema import AnomalyType

#: One line per type, short enough to stand on its button.
DEFINITIONS = {
    AnomalyType.OBJECT: "A thing, not a person, has a wrong shape: deformed, mutated, melted, merged or cut into.",
    AnomalyType.HUMAN: "A person's body is wrong: limbs, hands, fingers or face deformed, too many, missing or split.",
    AnomalyType.MOTION: "Something moves as nothing can: odd paths, jitter, flicker, or appears or vanishes suddenly.",
    AnomalyType.PHYSICAL: "Things behave against physics: they float, pass through each other, fall the wrong way.",
    AnomalyType.CHARACTER: "Written letters or digits are unreadable, badly laid out, or change from frame to frame.",
}

#: Question and answer, in the order in which they come up.
CONVENTIONS = (
    (
        "One frame or several?",
        "If a single frame shows it (a deformed hand, unreadable writing), it is Object, Human or Character, however "
        "long it lasts. Motion and Physical are for what is only seen by comparing frames; their window has several.",
    ),
    (
        "Object or Physical?",
        "Object: the thing itself is wrong in its shape. Physical: sound things do something impossible to each other "
        "or to what surrounds them.",
    ),
    (
        "Writing that changes",
        "Compare all frames. Mark the whole range over which the change can be seen, even if every single frame could "
        "be right.",
    ),
    (
        "Boxes",
        "Tight, and all of what is wrong: somebody who sees only the inside must recognise it. Several regions in one "
        "frame get several boxes. What is partly hidden is boxed as far as it must reach.",
    ),
    (
        "Appearing, vanishing, turning into something",
        "Box the frame where it happens: the last frame that still shows what vanishes, the first frame that shows "
        "what appears. The window holds the whole range, the box need not.",
    ),
    (
        "Several anomalies",
        "Each gets its own entry, two of one type as well. Type and window say what and when; in your own words, "
        "say which thing it is and what is wrong with it.",
    ),
)
