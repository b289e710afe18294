"""Colours on the table, and what distractors are made of."""

COLORS_RGB = {
    "red": (0.80, 0.12, 0.10),
    "green": (0.10, 0.60, 0.18),
    "blue": (0.10, 0.25, 0.80),
    "purple": (0.55, 0.15, 0.65),
    "pad": (0.90, 0.80, 0.10),
    "bowl": (0.88, 0.88, 0.90),
}
# What distractors are made of: parts of (geom type, size, height of its centre), m.
DISTRACTORS = {
    "bar": (("box", (0.034, 0.011, 0.011), 0.011), ("box", (0.012, 0.010, 0.016), 0.016)),
    "dome": (("box", (0.022, 0.022, 0.004), 0.004), ("ellipsoid", (0.020, 0.020, 0.016), 0.018)),
    "post": (("cylinder", (0.022, 0.005, 0), 0.005), ("cylinder", (0.009, 0.020, 0), 0.020)),
    "steps": (("box", (0.028, 0.020, 0.008), 0.008), ("box", (0.016, 0.012, 0.018), 0.018)),
    "cross": (("box", (0.032, 0.009, 0.012), 0.012), ("box", (0.009, 0.032, 0.012), 0.012)),
    "mushroom": (
        ("cylinder", (0.015, 0.012, 0), 0.012),
        ("ellipsoid", (0.026, 0.026, 0.012), 0.028),
    ),
    "pill": (("capsule", (0.014, 0.010, 0), 0.024), ("cylinder", (0.018, 0.003, 0), 0.003)),
}
