-- error: a conversion that is none
os.date("%Ez")
