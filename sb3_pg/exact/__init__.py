"""Small decision problems whose policy gradient is known exactly: an oracle for tests, and something to teach with."""
