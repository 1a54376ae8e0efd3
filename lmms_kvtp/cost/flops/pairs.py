"""Operations of comparing vectors."""


def pairs_flops(left: int, right: int, width: int) -> int:
    """The products, or the distances, of each of `left` vectors with each of `right` ones: 2 n m d."""
    return 2 * left * right * width
