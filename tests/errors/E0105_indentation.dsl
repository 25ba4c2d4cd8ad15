def f():
	return 1


def g():
    if a:
    return 1


def h():
    x = 1
        y = 2
  return x


def i(): return 1
