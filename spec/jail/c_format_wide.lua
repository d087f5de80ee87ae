-- error: widths are two digits
return ("%1000000000d"):format(1)
