"""Videos over HTTP: a queue of jobs, a REST interface, a page to drop videos on, and the browser's camera."""
