def f():
    a = 012 + 0x1f + 1j
    b = 99999999999999999999 + 1e999
    c = r"raw" + "\q"
    return 1.5f
