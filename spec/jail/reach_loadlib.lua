-- error 2: is not there
package.loadlib("libc.so.6", "*")
