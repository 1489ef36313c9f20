"""What scenes look like: colours, patterns and light of a scene, and the domains in which it can be drawn.

A `Look` belongs to a scene and is the same in all domains; a domain is a way to draw any scene. Nothing here moves an
object, so all domains of a scene share their ground truth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from repro.data.scene_geometry import SOLIDS, Layout, Surface, own_frame, shadows

DOMAINS = ("render", "clay", "toon", "sketch", "night", "fog", "thermal", "grain")
PATTERNS = ("plain", "bands", "checks", "dots", "marble")
#: What tells an object's class apart from its shape: nothing else, its hue, or its pattern.
CUES = ("shape", "colour", "texture")
#: Period of patterns, in the units of the scene.
PERIOD = 0.46


class Look(NamedTuple):
    """Colours, patterns and light of N scenes of K objects."""

    colour: Tensor
    """[N, K + 2, 2, 3]: both colours (RGB in 0..1) of the objects, the floor, the wall."""
    pattern: Tensor
    """LongTensor [N, K + 2]: index into `PATTERNS`."""
    phase: Tensor
    """[N, K + 2, 3]: shift of the pattern, in periods."""
    light: Tensor
    """[N, 3]: unit, towards the light, world."""
    ambient: Tensor
    """[N]: light in the shadow, of 1 in the light."""
    gloss: Tensor
    """[N, K + 2]: strength of highlights."""
    heat: Tensor
    """[N, K + 2]: temperature in 0..1, for the domain that shows it."""


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB [..., 3]."""
    sector = (hue[..., None] * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(sector, 4 - sector).clamp(0, 1))


def dress(layout: Layout, generator: torch.Generator, cue: str = "shape", agreement: float = 1.0) -> Look:
    """Draw the look of scenes.

    Args:
        cue: one of `CUES`. With ``shape`` hues and patterns are independent of the class.
        agreement: probability that the cue is that of an object's class; otherwise it is drawn from all classes.

    Raises ValueError for another cue, or an agreement that is no probability.
    """
    if cue not in CUES or not 0 <= agreement <= 1:
        raise ValueError(f"cue is one of {', '.join(CUES)}, agreement in 0..1; not {cue!r}, {agreement}")
    count, slots = layout.solid.shape

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    shown = torch.randint(0, len(SOLIDS), (count, slots), generator=generator)
    shown = torch.where(uniform(count, slots) < agreement, layout.solid.clamp_min(0), shown)
    hue = uniform(count, slots)
    if cue == "colour":
        hue = (shown + uniform(count, slots, low=-0.25, high=0.25)) / len(SOLIDS) % 1
    pattern = torch.randint(0, len(PATTERNS), (count, slots), generator=generator)
    if cue == "texture":
        pattern = shown
    elif cue == "colour":
        pattern = torch.zeros_like(pattern)
    saturation, value = uniform(count, slots, low=0.55, high=0.9), uniform(count, slots, low=0.6, high=0.95)
    first = hsv(hue, saturation, value)
    # the second colour differs in lightness and little in hue, so that patterns show in grey as well
    second = hsv((hue + uniform(count, slots, low=-0.04, high=0.04)) % 1, saturation * 0.6, 1.25 * value - 0.55)
    room = uniform(count, 1), uniform(count, 2, low=0.06, high=0.3), uniform(count, 2, low=0.62, high=0.9)
    walls = hsv((room[0] + torch.tensor([0.0, 0.4])) % 1, room[1], room[2])
    tiles = torch.randint(0, 3, (count, 2), generator=generator)
    colour = torch.stack((torch.cat((first, walls), 1), torch.cat((second.clamp_min(0.05), 0.86 * walls), 1)), 2)
    # over the left or the right shoulder of the camera, so that neighbouring faces differ in brightness
    azimuth, elevation = uniform(count, low=0.10, high=0.38), uniform(count, low=0.55, high=0.95)
    azimuth = math.pi * (1 + torch.where(uniform(count) < 0.5, azimuth, 1 - azimuth))
    light = torch.stack((azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()), -1)
    return Look(
        colour=colour,
        pattern=torch.cat((pattern, tiles), 1),
        phase=uniform(count, slots + 2, 3),
        light=light,
        ambient=uniform(count, low=0.38, high=0.55),
        gloss=torch.cat((uniform(count, slots, low=-0.3, high=0.6).clamp_min(0), torch.zeros(count, 2)), 1),
        heat=torch.cat((uniform(count, slots, low=0.35, high=0.95), uniform(count, 2, low=0.08, high=0.22)), 1),
    )


def _blend(layout: Layout, look: Look, surface: Surface) -> Tensor:
    """Share of the second colour: [N, S, S]."""
    count, slots = layout.solid.shape
    shape = surface.slot.shape
    owner, point = surface.slot.view(count, -1), surface.point.view(count, -1, 3)
    rows = torch.arange(count)[:, None]
    place = point.clone()
    scene, pixel = (owner < slots).nonzero(as_tuple=True)
    place[scene, pixel] = own_frame(layout, scene, owner[scene, pixel], point[scene, pixel], True)
    # the floor's tiles and the wall's courses are wider than the patterns of objects
    period = torch.where(owner < slots, PERIOD, 1.3)[..., None]
    x, y, z = (place / period + look.phase[rows, owner]).unbind(-1)
    inside = owner < slots
    step = ((x.floor() + y.floor() + z.floor()) % 2).where(inside, (x.floor() + (y + z).floor()) % 2)
    bands = ((1.35 * z + 0.35 * x) % 1 < 0.5).float().where(inside, ((y + z) % 1 < 0.5).float())
    dots = ((torch.stack((x, y, z)) % 1 - 0.5).square().sum(0) < 0.15).float()
    marble = (0.5 + 0.6 * torch.sin(math.tau * 0.7 * (x + z + 0.5 * torch.sin(2.9 * y + 1.7 * z)))).clamp(0, 1)
    options = torch.stack((torch.zeros_like(x), bands, step, dots, marble))
    pattern = look.pattern[rows, owner]
    return options.gather(0, pattern[None])[0].view(shape)


def _lines(surface: Surface) -> Tensor:
    """Pixels on either side of a border between two smooth pieces of surface: [N, S, S] in 0..1."""
    piece = surface.slot * 8 + surface.face
    marks = torch.zeros(piece.shape)
    for axis in (1, 2):
        differs = piece.diff(dim=axis) != 0
        marks.narrow(axis, 0, piece.shape[axis] - 1).masked_fill_(differs, 1.0)
        marks.narrow(axis, 1, piece.shape[axis] - 1).masked_fill_(differs, 1.0)
    return marks


def _warm(heat: Tensor) -> Tensor:
    """Colours of temperatures in 0..1, from black over violet and orange to white: [..., 3]."""
    stops = torch.tensor([
        [0.02, 0.01, 0.10], [0.25, 0.05, 0.42], [0.62, 0.15, 0.40],
        [0.91, 0.38, 0.18], [0.98, 0.72, 0.20], [1.0, 0.98, 0.82],
    ])  # fmt: skip
    at = heat.clamp(0, 1) * (len(stops) - 1)
    below = at.floor().long().clamp_max(len(stops) - 2)
    return torch.lerp(stops[below], stops[below + 1], (at - below)[..., None])


def _grey(colour: Tensor) -> Tensor:
    return (colour * torch.tensor([0.3, 0.59, 0.11])).sum(-1)


def _shrink(page: Tensor, size: int) -> Tensor:
    """Mean over squares of [N, S, S, C]: [N, size, size, C]."""
    count, side, _, channels = page.shape
    each = side // size
    return page.view(count, size, each, size, each, channels).mean((2, 4))


def paint(
    layout: Layout, look: Look, surface: Surface, domain: str, size: int, generator: torch.Generator
) -> Tensor:  # fmt: skip
    """Pictures of the scenes in a domain: float [N, 3, size, size], multiples of 1/255.

    Args:
        surface: the scenes at a multiple of ``size``; pixels of the picture are means over squares.
        generator: of what the domain adds by chance (noise, lamps, strokes).

    Raises ValueError for an unknown domain.
    """
    if domain not in DOMAINS:
        raise ValueError(f"a domain is one of {', '.join(DOMAINS)}, not {domain!r}")
    count, slots = layout.solid.shape
    side = surface.slot.shape[1]
    rows = torch.arange(count)[:, None, None]
    owner, inside = surface.slot, surface.slot < slots

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    def noise(level: float, channels: int = 3) -> Tensor:
        return level * torch.randn(count, size, size, channels, generator=generator)

    facing = (surface.normal * look.light[:, None, None]).sum(-1).clamp_min(0)
    lit = facing * (~shadows(layout, surface, look.light))
    ambient = look.ambient[:, None, None] * (0.8 + 0.2 * surface.normal[..., 2])
    shade = ambient + (1.08 - ambient) * lit
    colours = look.colour[rows, owner]
    if domain in ("render", "night", "fog", "grain"):
        blend = _blend(layout, look, surface)[..., None]
        colour = torch.lerp(colours[..., 0, :], colours[..., 1, :], blend)
    else:
        colour = colours[..., 0, :]

    if domain == "render":
        eye = torch.stack((torch.zeros(count), torch.zeros(count), layout.height), -1)[:, None, None]
        view = torch.nn.functional.normalize(eye - surface.point, dim=-1)
        half = torch.nn.functional.normalize(view + look.light[:, None, None], dim=-1)
        shine = look.gloss[rows, owner] * (surface.normal * half).sum(-1).clamp_min(0).pow(24) * (lit > 0)
        page = _shrink(colour * shade[..., None] + shine[..., None], size) + noise(0.01)
    elif domain == "clay":
        tone = torch.where(inside, 1.0, 0.82)[..., None] * torch.tensor([1.0, 0.95, 0.88])
        page = _shrink(tone * (0.25 + 0.2 * surface.normal[..., 2:] + 0.72 * lit[..., None]), size) + noise(0.01)
    elif domain == "toon":
        grey = _grey(colour)[..., None]
        bright = (grey + 1.5 * (colour - grey)).clamp(0, 1)
        steps = 0.62 + 0.2 * (lit > 0.12) + 0.18 * (lit > 0.6)
        ink = _lines(surface)[..., None]
        page = _shrink(torch.lerp(bright * steps[..., None], torch.tensor([0.08, 0.06, 0.12]), 0.9 * ink), size)
    elif domain == "sketch":
        axis = torch.arange(side, dtype=torch.float32) * (size / side)
        tilt = uniform(count, 1, 1, low=0.6, high=1.4)
        stroke = ((axis[:, None] * tilt + axis + uniform(count, 1, 1, high=4.0)) / 3.0) % 1
        hatched = (stroke < 0.9 * (0.75 - lit).clamp(0, 0.6)) & (inside | (lit == 0))
        pencil = torch.maximum(0.95 * _lines(surface), 0.5 * hatched)
        paper = uniform(count, 1, 1, 3, low=0.9, high=0.99)
        page = paper * (1 - 0.9 * _shrink(pencil[..., None], size)) + noise(0.02, 1)
    elif domain == "night":
        low, high = torch.tensor([-2.2, 0.0, 2.2]), torch.tensor([2.2, 2.0, 3.4])
        lamp = torch.lerp(low, high, uniform(count, 3))
        to = lamp[:, None, None] - surface.point
        far = to.square().sum(-1)
        glow = (surface.normal * to).sum(-1).clamp_min(0) / far.sqrt() * (16.0 / (5.0 + far))
        warm = hsv(uniform(count, low=0.06, high=0.14), uniform(count, low=0.4, high=0.7), torch.ones(count))
        sky = torch.tensor([0.16, 0.19, 0.33]) * (0.6 + 0.4 * surface.normal[..., 2:])
        page = _shrink(colour * (sky + 0.75 * glow[..., None] * warm[:, None, None]), size) + noise(0.03)
    elif domain == "fog":
        density = uniform(count, 1, 1, low=0.16, high=0.28)
        veil = (1 - torch.exp(-density * (surface.depth - 2.0).clamp_min(0)))[..., None]
        tint = uniform(count, low=0.5, high=0.65), uniform(count, low=0.02, high=0.12)
        air = hsv(*tint, uniform(count, low=0.75, high=0.9))[:, None, None]
        page = _shrink(torch.lerp(colour * (0.5 + 0.5 * shade)[..., None], air, veil), size) + noise(0.012)
    elif domain == "thermal":
        warmed = 0.18 * surface.normal[..., 2].clamp_min(0) - 0.18
        heat = look.heat[rows, owner] * (1 + warmed) + torch.where(inside, 0.2, 0.06) * (lit - 0.4)
        heat = _shrink(heat[..., None], size)[..., 0].unsqueeze(1)
        soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(heat, (1, 1, 1, 1), "replicate"), 3, 1)
        page = _warm((0.5 * heat + 0.5 * soft)[:, 0] + noise(0.03, 1)[..., 0])
    else:
        grey = _grey(colour * shade[..., None])[..., None]
        sepia = torch.lerp(0.1 + 0.9 * grey, colour * shade[..., None], uniform(count, 1, 1, 1, low=0.2, high=0.45))
        axis = torch.linspace(-1, 1, size)
        corner = 1 - 0.22 * (axis[:, None].square() + axis.square())[..., None]
        page = _shrink(sepia, size) * torch.tensor([1.08, 0.96, 0.76]) * corner + noise(0.04, 1) + noise(0.015)
    return ((page.clamp(0, 1) * 255).round() / 255).permute(0, 3, 1, 2).contiguous()
