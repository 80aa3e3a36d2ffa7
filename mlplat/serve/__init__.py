"""The prediction rig: a request comes in over HTTP, goes to an arm, reads its features, is answered and is logged."""
