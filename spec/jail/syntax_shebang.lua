-- ok: a first line for a shell
return 1
