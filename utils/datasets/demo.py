"""A synthetic fundus data set with five grades and the class proportions of EyePACS, to try the project without real data.

Grades roughly follow the international scale: 0 nothing, 1 microaneurysms, 2 also haemorrhages and exudates, 3 many of them,
4 new vessels, with bleeding and scars. The severity of each eye scatters around its grade, and the severity sets the Poisson
rates of the lesions. Neighbouring grades therefore overlap, and no classifier can be perfect. The validation and test sets hold
more images of rare grades than these proportions give, so that recall does not depend on a few images. The set allows no
medical conclusions.
"""
import os
import shutil

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

PROPORTIONS = (.735, .070, .151, .025, .019)
SPLITS = {'train': (1500, 1), 'val': (300, 30), 'test': (400, 40)}  # images; minimum of each grade
SIZE, SCALE = 64, 2  # height and width in pixels; images are drawn SCALE times larger and reduced, for smooth edges
#          severity:    0    1    2    3     4
RATES = {'dots':      (0.3, 7., 8., 10., 12.),
         'blots':     (0.0, .3, 3., 9.0, 18.),
         'exudates':  (0.0, .1, 3., 5.0, 5.0),
         'tangles':   (0.0, .0, .0, 0.2, 3.2),
         'pools':     (0.0, .0, .0, 0.1, 1.2),
         'membranes': (0.0, .0, .0, 0.1, 1.6)}  # mean number of each kind of lesion


def counts_of(n: int, at_least: int = 1) -> np.ndarray:
    """-> number of images of each grade among `n`, by largest remainder; grades with fewer than `at_least` are raised to it"""
    exact = np.array(PROPORTIONS) * n
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact)[:n - counts.sum()]] += 1
    return np.maximum(counts, at_least)


def write_demo_data(folder: str, seed: int = 0, sizes: dict[str, tuple[int, int]] | None = None) -> None:
    """Write `folder`/images/*.jpg and `folder`/{train,val,test}_demo.csv, completely or not at all. The images depend only on `seed`.
    `sizes`: split -> arguments of `counts_of` (default: SPLITS)."""
    partial = f'{folder}.{os.getpid()}.tmp'
    os.makedirs(os.path.join(partial, 'images'))
    try:
        for number, (split, (n, at_least)) in enumerate((sizes or SPLITS).items()):
            grades = np.repeat(range(5), counts_of(n, at_least))
            rows = []
            for i, grade in enumerate(tqdm(grades, desc=f'demo images, {split}', unit='img', leave=False, disable=None)):
                image_id = f'{split}_{i:04d}'
                image = fundus_image(grade, np.random.default_rng([seed, number, i]))
                image.save(os.path.join(partial, 'images', f'{image_id}.jpg'), quality=88)
                rows.append((image_id, f'DR{grade}', grade))
            pd.DataFrame(rows, columns=['image_id', 'name', 'grade']).to_csv(os.path.join(partial, f'{split}_demo.csv'), index=False)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _curve(rng, start, angle, *, length, bend, steps=24):
    """-> points of a vessel that leaves `start` at `angle` and turns by about `bend` in total, and its direction at each point"""
    turns = angle + np.cumsum(rng.normal(bend / steps, .09, steps))
    return start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * (length / steps), 0), turns


def _line(draw, points, width):
    draw.line([tuple(p) for p in points], fill=255, width=max(1, round(width)), joint='curve')


def _vessels(rng, draw, disc, *, radius, side):
    """Draw the arcades, which run from the optic disc towards the macula above and below it, and the nasal vessels, all with branches."""
    for vertical in (-1, 1):
        for temporal, length, bend in ((1, 2.0, 1.5), (1, 1.5, .7), (-1, .9, .5)):
            heading = np.array([side * temporal, vertical * rng.uniform(1.2, 2.2)])
            angle = np.arctan2(heading[1], heading[0])
            turn = -side * temporal * vertical * bend * rng.uniform(.8, 1.2)
            points, turns = _curve(rng, disc, angle, length=length * radius, bend=turn)
            width = rng.uniform(.025, .04) * radius * (1.2 if temporal > 0 else .8)
            for i in range(0, len(points) - 1, 3):
                _line(draw, points[i:i + 4], width * (1 - .6 * i / len(points)))
            for i in rng.choice(np.arange(3, len(points) - 3), 4, replace=False):
                branch, _ = _curve(rng, points[i], turns[i] + rng.choice([-1, 1]) * rng.uniform(.5, 1),
                                   length=rng.uniform(.3, .7) * radius, bend=0.)
                _line(draw, branch, .4 * width)


def _lesions(rng, severity, *, radius, centre, disc):
    """-> masks (dark, bright, pale) of the lesions, which keep away from the rim"""
    size = SIZE * SCALE
    dark, bright, pale = (Image.new('L', (size, size)) for _ in range(3))
    dark_draw, bright_draw, pale_draw = (ImageDraw.Draw(mask) for mask in (dark, bright, pale))
    number = {kind: rng.poisson(np.interp(severity, range(5), rates)) for kind, rates in RATES.items()}

    def position(spread=.85):
        angle, r = rng.uniform(0, 2 * np.pi), spread * radius * np.sqrt(rng.random())
        return centre + r * np.array([np.cos(angle), np.sin(angle)])

    def blob(draw, at, r):
        rx, ry = r * rng.uniform(.7, 1.3, 2)
        draw.ellipse([at[0] - rx, at[1] - ry, at[0] + rx, at[1] + ry], fill=255)

    for _ in range(number['dots']):
        blob(dark_draw, position(), rng.uniform(.9, 1.3) * SCALE)
    for _ in range(number['blots']):
        at = position()
        for _ in range(rng.integers(2, 5)):
            blob(dark_draw, at + rng.normal(0, 1.3 * SCALE, 2), rng.uniform(1.2, 2.4) * SCALE)
    for _ in range(number['exudates']):
        at = position(.7)
        for _ in range(rng.integers(3, 8)):
            blob(bright_draw, at + rng.normal(0, 2.2 * SCALE, 2), rng.uniform(.7, 1.2) * SCALE)
    for _ in range(number['tangles']):  # new vessels: fine knots, half of them at the disc
        at = disc + rng.normal(0, .1 * radius, 2) if rng.random() < .5 else position(.75)
        for _ in range(rng.integers(5, 9)):
            loop, _ = _curve(rng, at, rng.uniform(0, 2 * np.pi), length=rng.uniform(.25, .5) * radius,
                             bend=rng.choice([-1, 1]) * rng.uniform(3, 7))
            _line(dark_draw, loop, .8 * SCALE)
    for _ in range(number['pools']):  # preretinal haemorrhages: flat at the top, round at the bottom
        (x, y), r = position(.6), rng.uniform(.18, .32) * radius
        dark_draw.chord([x - r, y - r, x + r, y + r], 0, 180, fill=255)
    for _ in range(number['membranes']):  # scars along the vessels
        strand, _ = _curve(rng, position(.6), rng.uniform(0, 2 * np.pi), length=rng.uniform(.6, 1.) * radius, bend=rng.normal(0, 1))
        _line(pale_draw, strand, rng.uniform(2, 3.5) * SCALE)
    return dark, bright, pale


def fundus_image(grade: int, rng: np.random.Generator) -> Image.Image:
    """-> RGB fundus image of `grade` (0..4), SIZE x SIZE pixels, with vessels, optic disc, macula, lesions, uneven lighting and noise"""
    size, side = SIZE * SCALE, rng.choice([-1, 1])
    radius, centre = size * rng.uniform(.45, .48), size / 2 + rng.normal(0, .01 * size, 2)
    disc = centre + radius * np.array([-side * rng.uniform(.5, .6), rng.normal(0, .05)])
    vessels = Image.new('L', (size, size))
    _vessels(rng, ImageDraw.Draw(vessels), disc, radius=radius, side=side)
    severity = np.clip(grade + rng.normal(0, .22), 0, 4)
    dark, bright, pale = _lesions(rng, severity, radius=radius, centre=centre, disc=disc)

    y, x = np.mgrid[:size, :size].astype(np.float32)
    offset = np.stack([x - centre[0], y - centre[1]]) / radius
    tilt = rng.normal(0, .13, 2)
    light = 1 - .3 * (offset ** 2).sum(0) + np.tensordot(tilt, offset, 1)
    colour = (np.array([.80, .40, .20]) * rng.uniform(.85, 1.15, 3) * rng.uniform(.8, 1.1)).astype(np.float32)
    lamp = np.clip(light, .3, 1.3)[..., None].astype(np.float32)
    picture = colour * lamp

    def paint(mask, rgb, strength, blur):
        nonlocal picture
        soft = mask if isinstance(mask, np.ndarray) else np.asarray(mask.filter(ImageFilter.GaussianBlur(blur * SCALE)), np.float32) / 255
        weight = np.clip(np.float32(strength) * soft, 0, 1)[..., None]
        picture += weight * (np.array(rgb, np.float32) * lamp - picture)

    def spot(at, r):
        return np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * r ** 2))

    paint(spot(centre + radius * np.array([side * .12, rng.normal(.03, .03)]), .16 * radius), colour * .5, .6, 0)  # macula
    paint(np.clip(2.2 * spot(disc, .11 * radius), 0, 1), (.98, .82, .55), .9, 0)
    paint(vessels, colour * (.62, .42, .45), rng.uniform(.7, .95), .35)
    paint(bright, (1., .92, .5), rng.uniform(.75, 1.), .4)
    paint(dark, colour * (.55, .3, .32), rng.uniform(.75, 1.), .35)
    paint(pale, (.80, .76, .68), rng.uniform(.7, 1.), .8)
    picture *= np.clip((1 - np.hypot(*offset)) * radius / (1.2 * SCALE), 0, 1)[..., None]  # black outside of the fundus
    image = Image.fromarray((255 * np.clip(picture, 0, 1)).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0, .35) * SCALE))
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
    noisy = small + rng.normal(0, rng.uniform(2, 6), small.shape) * (small.max(-1, keepdims=True) > 12)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
