-- instructions 2: an endless goto
::top:: goto top
