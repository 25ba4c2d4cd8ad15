width = 3
print(width)
for i in range(3):
    x = i
return 3
assert width == 3
width += 1
3 + 4
