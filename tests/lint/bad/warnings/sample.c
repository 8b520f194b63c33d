int f(int unused) { int n; return n; }
