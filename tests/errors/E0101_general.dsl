x dim = 3
y: dim = 1 +


def f:
    return 1


def g(x: dim):
    a = x[1:2:3:4]
    += 3
    c = (x, , 1)
    from x import y
    return a


@layer
z: dim = 3
