-- error 2: bytes that are no UTF-8
error("\255\254 \0 \27[31m")
