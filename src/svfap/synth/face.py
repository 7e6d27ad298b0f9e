"""The shapes of a face, given its identity and the activity of its muscles.

Each facial action unit moves a few parameters of brows, lids, nose, cheeks, mouth and jaw, in the direction that the
Facial Action Coding System describes; the sizes are chosen so that a full expression shows at 48 to 96 pixels.
"""

from __future__ import annotations

import numpy as np

from svfap.synth.behaviour import ACTION_UNITS, Behaviour
from svfap.synth.drawing import AROUND, Drawing, ellipse, loop, surface
from svfap.synth.identity import Identity

SIDES = (-1.0, 1.0)
ALONG = np.linspace(-1.0, 1.0, 13)
INK = np.array((26.0, 20.0, 20.0))


class SyntheticFace:
    """Draws one clip's face into a Drawing, back to front. Arrays are (T, 1) where they change over time."""

    def __init__(self, identity: Identity, behaviour: Behaviour, drawing: Drawing) -> None:
        self.identity, self.drawing = identity, drawing
        self.units = dict(zip(ACTION_UNITS, behaviour.action_units.T[:, :, None], strict=True))
        self.blink, self.gaze = behaviour.blink[:, None], behaviour.gaze[:, :, None]
        self.shadow = identity.skin * np.array((0.62, 0.52, 0.50))

    def draw(self) -> None:
        """Add all shapes, from the neck to the glasses."""
        self._body()
        self._hair_behind()
        self._head()
        self._soft_shadows()
        self._beard()
        self._nose()
        self._mouth()
        for side in SIDES:
            self._eye(side)
            self._brow(side)
        self._wrinkles()
        self._hair_in_front()
        self._glasses()

    def _outline(self, angle: np.ndarray, grow: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Points (T, n) on the head's silhouette; angle 0 is the right ear, a quarter turn the chin."""
        face = self.identity
        cos, y = np.cos(angle), np.sin(angle)
        low = np.maximum(y, 0.0)
        square = np.abs(cos) ** (1 - (1 - face.jaw_square) * (y > 0))
        x = face.head_width * np.sign(cos) * square * (1 - face.jaw_taper * low**2)
        y = np.where(y < 0, 0.97 * y, y) + 0.15 * self.units[26] * np.clip((y - 0.2) / 0.8, 0, 1) ** 2
        return x * (1 + grow / face.head_width), y * (1 + grow)

    def _body(self) -> None:
        face, drawing = self.identity, self.drawing
        shoulders = np.array([(-2.6, 2.4), (-1.5, 1.35), (-0.5, 1.1), (0.5, 1.1), (1.5, 1.35), (2.6, 2.4)]).T
        neck = np.array([(-0.40, 0.4), (-0.42, 1.1), (-0.2, 1.3), (0.2, 1.3), (0.42, 1.1), (0.40, 0.4)]).T
        drawing.fill(shoulders[0], shoulders[1], face.cloth, z=-0.5)
        drawing.fill(neck[0], neck[1], face.skin * 0.74, z=-0.25)

    def _head(self) -> None:
        face, drawing = self.identity, self.drawing
        for side in SIDES:
            drawing.fill(*ellipse(side * (face.head_width + 0.02), 0.0, 0.09, 0.17), face.skin * 0.88, z=-0.1)
        drawing.fill(*self._outline(AROUND), face.skin, z=0.0)

    def _soft_shadows(self) -> None:
        face, drawing, units = self.identity, self.drawing, self.units
        smile, chin = units[12], 0.15 * units[26]
        for side in SIDES:
            x, y = face.eye_x * side, face.eye_y
            drawing.shade(*ellipse(x, y - 0.03, 0.24, 0.16), -0.16)
            bag_x, bag_y = x + 0.17 * np.array((-1, 0, 1)), y + 0.17 + 0.02 * np.array((-1, 1, -1))
            drawing.shade(bag_x, bag_y, -0.1 - 0.1 * face.age, 0.04)
            cheek_x, cheek_y = side * (0.43 + 0.03 * smile), 0.22 - 0.07 * smile - 0.05 * units[6]
            drawing.shade(*ellipse(cheek_x, cheek_y, 0.15, 0.12), 0.1 + 0.22 * np.maximum(smile, units[6]))
            fold = np.linspace(0, 1, 6)
            fold_x = side * (face.nose_width + 0.02 + fold * (0.17 + 0.12 * smile + 0.06 * units[20]))
            fold_y = face.nose_y - 0.03 + fold * (0.30 - 0.05 * smile) - 0.05 * units[9] - 0.06 * smile * fold
            fold_strength = -(0.06 + 0.18 * face.age + 0.42 * smile + 0.4 * units[9] + 0.25 * units[10])
            drawing.shade(fold_x, fold_y, np.clip(fold_strength, -0.6, 0), 0.055)
            bridge = np.array([(0.07, -0.22), (0.075, 0.0), (0.11, 0.2)]).T
            drawing.shade(side * bridge[0], bridge[1], -0.13, 0.05)
        drawing.shade(*ellipse(0.0, face.nose_y - 0.06, 0.06, 0.06), 0.25)
        drawing.shade(np.array((-0.1, 0, 0.1)), face.nose_y + 0.09 + np.array((0.0, 0.03, 0.0)), -0.3, 0.06)
        below = face.mouth_y + 0.17 + 0.8 * chin
        drawing.shade(np.array((-0.13, 0, 0.13)), below, -0.2 - 0.2 * units[17], 0.05)
        drawing.shade(*ellipse(0.0, 0.84 + chin, 0.13, 0.07), 0.12 + 0.1 * units[17])
        drawing.shade(*ellipse(0.0, face.brow_y + 0.06, 0.05, 0.1), -0.35 * units[4] - 0.3 * units[9])
        drawing.shade(np.array((-0.42, 0.0, 0.42)), 1.06 + chin + np.array((-0.13, 0.0, -0.13)), -0.5, 0.12)

    def _nose(self) -> None:
        face, drawing = self.identity, self.drawing
        lift = -0.05 * self.units[9] - 0.02 * self.units[10]
        wide = face.nose_width * (1 + 0.18 * self.units[9] + 0.06 * self.units[12])
        y = face.nose_y + lift
        z = 0.78
        arc = np.linspace(-0.35 * np.pi, 0.6 * np.pi, 6)
        for side in SIDES:
            drawing.line(side * (wide - 0.035 + 0.045 * np.cos(arc)), y + 0.06 * np.sin(arc), self.shadow, 0.022, z=z)
            drawing.fill(*ellipse(side * 0.5 * wide, y + 0.05, 0.032, 0.018), self.shadow * 0.55, z=z)
        tip = np.array((0.0, 0.02, 0.0))
        drawing.line(0.35 * wide * np.array((-1.0, 0.0, 1.0)), y + 0.065 + tip, self.shadow, 0.02, z=z)

    def _eye(self, side: float) -> None:
        face, drawing, units = self.identity, self.drawing, self.units
        gain = 1 + side * face.asymmetry
        u = ALONG
        top = face.eye_open * (1 + 0.75 * gain * units[5] - 0.38 * units[7] - 0.15 * units[9] - 0.12 * units[4])
        low = 0.75 * face.eye_open * (1 - 0.75 * units[6] - 0.55 * units[7] - 0.3 * units[9] + 0.1 * units[26])
        top, low = np.maximum(top, 0.012), np.maximum(low, 0.004 - 0.3 * face.eye_open * units[6])
        top = top + (-0.75 * low - top) * self.blink
        centre_x, centre_y = side * face.eye_x, face.eye_y

        def lid(position: np.ndarray, height: np.ndarray) -> np.ndarray:
            tilt = face.eye_tilt * position * side
            return centre_y + tilt - height * np.maximum(1 - position**2, 0) ** 0.75

        x = centre_x + face.eye_width * u
        upper, lower = lid(u, top), lid(u, -low)
        upper = np.minimum(upper, lower)
        drawing.fill(loop(x, x), loop(upper, lower), np.array((236.0, 231.0, 226.0)))
        looking_x = centre_x + 0.3 * face.eye_width * self.gaze[:, 0]
        looking_y = centre_y + 0.25 * face.eye_open * self.gaze[:, 1]
        for radius, colour in ((0.086, face.iris), (0.042, INK)):
            iris_x = looking_x + radius * np.cos(AROUND)
            position = np.clip((iris_x - centre_x) / face.eye_width, -1, 1)
            iris_top, iris_low = lid(position, top), lid(position, -low)
            iris_y = np.clip(looking_y + radius * np.sin(AROUND), np.minimum(iris_top, iris_low), iris_low)
            drawing.fill(iris_x, iris_y, colour, show=1 - 1.2 * self.blink)
        glint = np.array((0.02, 0.02, 0.045, 0.045)), np.array((-0.05, -0.025, -0.025, -0.05))
        white = np.array((250.0, 250.0, 250.0))
        drawing.fill(looking_x + glint[0], looking_y + glint[1], white, show=top - 0.05 - self.blink)
        crease = upper - 0.05 - 0.03 * np.clip(top / face.eye_open, 0, 1.5)
        drawing.line(x, crease, face.skin * (0.82, 0.76, 0.74), 0.02)
        lash = upper - 0.036 * np.maximum(1 - u**2, 0) ** 0.5 - 0.006
        drawing.fill(loop(x, x), loop(upper, lash), INK * 1.4)
        drawing.line(x[2:-2], lower[:, 2:-2] + 0.008, face.skin * (0.72, 0.6, 0.58), 0.02)

    def _brow(self, side: float) -> None:
        face, units = self.identity, self.units
        gain = 1 + side * face.asymmetry
        u = np.linspace(0.0, 1.0, 8)
        lift = gain * (0.17 * units[1] * (1 - u) ** 1.5 + 0.13 * units[2] * u**0.7)
        drop = units[4] * (0.12 - 0.07 * u) + units[9] * (0.09 - 0.06 * u) + 0.02 * units[7]
        inner = 0.13 - 0.05 * units[4] - 0.02 * units[9]
        x = inner + (0.54 - inner) * u
        middle = face.brow_y + face.brow_slope * (u - 0.5) - face.brow_arch * np.sin(np.pi * u**1.3)
        middle = middle + 0.04 * u - lift + drop
        half = face.brow_thickness * (0.75 + 0.6 * u - 1.15 * u**2)
        colour = 0.8 * face.hair + 0.2 * face.skin * 0.6
        self.drawing.fill(side * loop(x, x), loop(middle - half, middle + half), colour * 0.85)

    def _mouth(self) -> None:
        face, drawing, units = self.identity, self.drawing, self.units
        smile, part, drop = units[12], units[25], units[26]
        stretch = 1 + 0.32 * smile + 0.34 * units[20] - 0.22 * units[23] - 0.16 * drop - 0.05 * units[17]
        width = face.mouth_width * stretch
        thin = np.clip(1 - 0.6 * units[23] - 0.25 * smile - 0.2 * units[20], 0.25, 1)
        u = ALONG
        corner = face.mouth_curve - 0.15 * smile + 0.13 * units[15] + 0.05 * units[20] + 0.02 * units[9]
        middle = face.mouth_y + 0.02 * smile - 0.045 * units[17] - 0.02 * units[23] + 0.02 * drop
        skew = 1 + np.sign(u) * face.asymmetry
        line = middle + corner * skew * np.abs(u) ** 1.7
        open_up = 0.02 * part + 0.04 * units[10] + 0.03 * units[9] * (units[25] > 0.02)
        open_low = 0.035 * part + 0.24 * drop + 0.055 * units[16] + 0.03 * part * smile
        bow = np.maximum(1 - u**2, 0)
        raised = 0.05 * units[10] + 0.03 * units[9]
        upper_in = line - (open_up + 0.35 * raised) * bow**0.8
        lower_in = line + open_low * bow**0.7
        cupid = bow**0.6 * (1 - 0.16 * np.exp(-((u / 0.16) ** 2)))
        upper_out = upper_in - (face.lip_thickness * thin + 0.3 * raised) * cupid
        lower_out = lower_in + 1.35 * face.lip_thickness * thin * bow**0.7
        x = width * u
        both = loop(x, x)
        if face.moustache:
            top = upper_out - 0.06 - 0.09 * bow**0.5
            drawing.fill(1.12 * both, loop(top, upper_out + 0.02), self._stubble(face.moustache))
        drawing.fill(both, loop(upper_out, lower_out), face.lips)
        drawing.fill(both, loop(upper_out, upper_in), face.lips * 0.86)
        gap = lower_in - upper_in
        opening = gap.max(axis=1, keepdims=True)
        show = opening - 0.012
        drawing.fill(both, loop(upper_in, lower_in), np.array((70.0, 24.0, 28.0)), show=show)
        teeth = np.array((238.0, 232.0, 220.0))
        top_teeth = upper_in + np.minimum(gap, 0.075)
        drawing.fill(0.9 * both, loop(upper_in, top_teeth), teeth, show=show)
        low_teeth = lower_in - np.clip(gap - 0.1, 0, 0.04) * (units[16] > 0.1)
        drawing.fill(0.8 * both, loop(low_teeth, lower_in), teeth * 0.85, show=show * (units[16] > 0.1))
        drawing.line(x, upper_in + 0.5 * np.minimum(gap, 0.02), face.lips * 0.45, 0.02, show=0.03 - opening)
        for side in SIDES:
            corner_x, corner_y = side * width * np.array((0.94, 1.06)), line[:, [0 if side < 0 else -1]] + np.zeros(2)
            drawing.line(corner_x, corner_y, self.shadow * 0.8, 0.025)

    def _wrinkles(self) -> None:
        """Lines that appear with activity: brows drawn together, nose wrinkled, forehead raised, eyes smiling."""
        face, drawing, units = self.identity, self.drawing, self.units

        def crease(x: np.ndarray, y: np.ndarray, strength: np.ndarray) -> None:
            strength = np.clip(strength, 0, 1)
            colour = face.skin + (self.shadow - face.skin) * strength
            drawing.line(x, y, colour, 0.018, show=strength - 0.12)

        frown = units[4] * (0.7 + 0.3 * face.age) * (1 - 0.6 * np.minimum(units[1], 1))
        for side in SIDES:
            crease(side * np.array((0.045, 0.035)), face.brow_y + np.array((-0.06, 0.1)), frown)
            crease(side * np.array((0.02, 0.09)), face.eye_y + 0.02 + np.array((0.0, -0.035)), units[9])
            crease(side * np.array((0.02, 0.1)), face.eye_y + 0.09 + np.array((0.0, -0.04)), units[9])
            foot = face.eye_x + face.eye_width
            for rise in (-0.07, 0.02):
                crease(side * (foot + np.array((0.03, 0.12))), face.eye_y + np.array((0.0, rise)), units[6])
            bag = np.linspace(-1, 1, 6)
            bag_y = face.eye_y + 0.12 - 0.03 * bag**2 - 0.02 * units[6]
            crease(side * face.eye_x + 0.15 * bag, bag_y, np.maximum(units[6], units[7]) * 0.8)
        raise_brows = np.maximum(units[1], 0.7 * units[2]) * (0.5 + 0.5 * face.age)
        u = np.linspace(-1, 1, 7)
        for row in (0.17, 0.25):
            crease(0.36 * u, face.brow_y - row + 0.015 * np.cos(np.pi * u) - 0.08 * units[1], raise_brows)

    def _stubble(self, fullness: float) -> np.ndarray:
        return self.identity.skin * 0.8 * (1 - fullness) + self.identity.hair * fullness

    def _beard(self) -> None:
        face = self.identity
        if not face.beard:
            return
        angle = np.linspace(0.02 * np.pi, 0.98 * np.pi, 17)
        outer_x, outer_y = self._outline(angle, 0.05 * face.beard)
        inner_x = (face.head_width - 0.06) * np.cos(angle)
        inner_y = 0.12 + 0.44 * np.sin(angle) ** 0.6 + 0.05 * self.units[26]
        z = loop(np.zeros(17), surface(inner_x, inner_y))
        self.drawing.fill(loop(outer_x, inner_x), loop(outer_y, inner_y), self._stubble(face.beard), z=z)

    def _hair_behind(self) -> None:
        face = self.identity
        if face.hair_style != "long":
            return
        u = np.linspace(-1.0, 1.0, 15)
        grow = face.head_width + face.hair_volume + 0.04
        top = -(0.97 + face.hair_volume) * np.sqrt(1 - 0.98 * u**2)
        x = np.concatenate([[-grow - 0.12], grow * u, [grow + 0.12]])
        y = np.concatenate([[1.25], top, [1.25]])
        self.drawing.fill(x, y, face.hair * 0.75, z=-0.3)

    def _hair_in_front(self) -> None:
        face = self.identity
        if face.hair_style == "none":
            return
        reach = {"short": 0.0, "curly": 0.12, "long": 0.2}[face.hair_style]
        angle = np.linspace(np.pi - reach * 0.6, 2 * np.pi + reach * 0.6, 25)
        bumps = 0.035 * np.cos(9 * angle) if face.hair_style == "curly" else 0.0
        grow = face.hair_volume * (1.3 if face.hair_style == "curly" else 1.0) * (0.35 + 0.65 * np.abs(np.sin(angle)))
        outer_x = (face.head_width + grow + bumps) * np.cos(angle)
        outer_y = (0.97 + grow + bumps) * np.sin(angle)
        u = np.linspace(1.0, -1.0, 17)
        side_y = -np.sin(angle[0]) * 0.97
        inner_x = face.head_width * 0.985 * u
        drop = 0.1 * (u - 0.8 * face.parting) ** 2 - 0.06 * np.exp(-(((u - 0.8 * face.parting) / 0.2) ** 2))
        inner_y = face.hairline_y + drop + (side_y - face.hairline_y) * np.abs(u) ** 5
        x, y = np.r_[outer_x, inner_x], np.r_[outer_y, inner_y]
        z = np.r_[np.zeros(25), 0.9 * surface(inner_x, inner_y)]
        self.drawing.fill(x, y, face.hair, z=z)
        for strand in (0.3, 0.55, 0.8):
            pick = slice(2, -2)
            mid_x = inner_x[pick] * (1 - strand) + outer_x[::-1][4:21][pick] * strand
            mid_y = inner_y[pick] * (1 - strand) + outer_y[::-1][4:21][pick] * strand
            self.drawing.line(mid_x, mid_y, face.hair * 0.8 + (18 if strand > 0.5 else 0), 0.02, z=0.4)

    def _glasses(self) -> None:
        face = self.identity
        if face.glasses == "none":
            return
        power = 1.0 if face.glasses == "round" else 0.45
        frame = INK if sum(face.cloth) % 2 < 1 else np.array((120.0, 90.0, 60.0))
        angle = np.linspace(0, 2 * np.pi, 25)
        cos, sin = np.cos(angle), np.sin(angle)
        for side in SIDES:
            x = side * (face.eye_x + 0.01) + 0.235 * np.sign(cos) * np.abs(cos) ** power
            y = face.eye_y + 0.03 + 0.2 * np.sign(sin) * np.abs(sin) ** power
            self.drawing.line(x, y, frame, 0.03, z=0.72)
            edge = face.eye_x + 0.245
            x, y = side * np.array((edge, face.head_width)), face.eye_y + np.array((0.0, 0.02))
            self.drawing.line(x, y, frame, 0.03, z=np.array((0.72, 0.0)))
        gap = face.eye_x - 0.225
        self.drawing.line(gap * np.array((-1, 0, 1)), face.eye_y + np.array((0.0, -0.03, 0.0)), frame, 0.03, z=0.74)
