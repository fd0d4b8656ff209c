import pytest
import torch as th

from vla_algos.bc.augmentation import Augmentation, crop, jitter_colors, shift


def gradient(n=3, channels=3, size=16):
    """Images whose pixel at (row, column) is 10 * row + column."""
    rows, columns = th.meshgrid(th.arange(size), th.arange(size), indexing="ij")
    return (10 * rows + columns).to(th.uint8).expand(n, channels, size, size).clone()


def test_shift_moves_each_image_by_its_own_offset_and_repeats_the_border():
    images = gradient()
    moved = shift(images, th.tensor([[0, 0], [2, -1], [-3, 0]]))
    assert th.equal(moved[0], images[0])
    assert th.equal(moved[1, :, 2:, :-1], images[1, :, :-2, 1:])
    assert th.equal(moved[1, :, 0, :-1], images[1, :, 0, 1:]) and th.equal(moved[1, 0, 2:, -1], images[1, 0, :-2, -1])
    assert th.equal(moved[2, :, :-3], images[2, :, 3:]) and th.equal(moved[2, 0, -1], images[2, 0, -1])


def test_crop_of_the_whole_changes_nothing_and_of_a_quarter_doubles_the_scale():
    images = gradient()
    assert th.equal(crop(images, th.ones(3), th.rand(3, 2)), images)
    halves = crop(images, th.full((3,), 0.5), th.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    # the value is linear in the place; row r of the result shows row r / 2 - 1 / 4 of the part cut out
    places = th.arange(1, 15) / 2 - 0.25
    for row, (top, left) in enumerate([(0, 0), (8, 8), (0, 8)]):
        expected = (10 * (top + places))[:, None] + (left + places)[None]
        assert (halves[row, 0, 1:15, 1:15].float() - expected).abs().max() <= 0.5


def test_color_factors_by_hand():
    images = th.tensor([60, 120, 180], dtype=th.uint8).view(1, 3, 1, 1).expand(3, 3, 4, 4).clone()
    images[:, :, 0] = 0
    factors = th.tensor([[0.5, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    changed = jitter_colors(images, factors)
    assert changed[0, :, 1, 1].tolist() == [30, 60, 90]
    grey = 0.299 * 60 + 0.587 * 120 + 0.114 * 180
    assert changed[1, :, 1, 1].tolist() == [round(grey)] * 3
    assert changed[2].unique().tolist() == [round(0.75 * grey)]


def test_cameras_of_a_row_change_alike_and_rows_do_not():
    one = th.randint(0, 256, (1, 3, 16, 16), dtype=th.uint8, generator=th.Generator().manual_seed(0))
    images = one.repeat(4, 2, 1, 1)
    augment = Augmentation(shift=3, crop=0.8, brightness=0.3, contrast=0.3, saturation=0.3)
    changed = augment(images, th.Generator().manual_seed(1))
    assert changed.shape == images.shape and changed.dtype == th.uint8
    # contrast alone looks at a camera as a whole, and these two see the same
    assert th.equal(changed[:, :3], changed[:, 3:])
    assert all(not th.equal(changed[0], changed[i]) for i in range(1, 4))
    assert th.equal(changed, augment(images, th.Generator().manual_seed(1)))


def test_the_default_draws_nothing():
    images, generator = gradient(), th.Generator().manual_seed(2)
    assert Augmentation()(images, generator) is images
    assert th.equal(generator.get_state(), th.Generator().manual_seed(2).get_state())


@pytest.mark.parametrize(("options", "message"), [({"crop": 0.0}, "crop is 0.0"), ({"shift": -1}, "shift is -1")])
def test_bad_ranges_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
