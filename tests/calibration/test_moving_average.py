"""Moving average: the mean of the samples' extremes."""

from planc.calibration.moving_average import ranges


def test_each_sample_weighs_the_same(observe) -> None:
    statistics = observe([-1, 2], [-2, 0, 1, 1, 1], [-3, 9])
    assert ranges(statistics, symmetric=False) == (-2, 4)
    assert ranges(statistics, symmetric=True) == (-4, 4)


def test_the_order_does_not_matter(observe) -> None:
    data = [[0.1, -0.3], [0.7, 1e-8], [1e8, -3]]
    assert ranges(observe(*data), symmetric=False) == ranges(observe(*data[::-1]), symmetric=False)
