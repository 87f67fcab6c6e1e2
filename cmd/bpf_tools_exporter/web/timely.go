package web

import (
	"net/http"
	"time"
)

// timely has a client take each part of an answer within a time, or the
// connection ends: one that stops reading would hold it, and a place among those
// who scrape, for good. A server's WriteTimeout counts from the request, which a
// run of a minute would exceed.
func timely(within time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := timelyWriter{w, http.NewResponseController(w), within}
		next.ServeHTTP(t, r)
		t.extend() // for what is still in a buffer
	})
}

// partSize is what has that time, in bytes.
const partSize = 64 << 10

type timelyWriter struct {
	http.ResponseWriter
	client *http.ResponseController
	within time.Duration
}

// Unwrap is for http.ResponseController.
func (w timelyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// extend begins the time anew. What has no deadlines, such as a recorder in a
// test, goes without.
func (w timelyWriter) extend() { _ = w.client.SetWriteDeadline(time.Now().Add(w.within)) }

func (w timelyWriter) WriteHeader(code int) {
	w.extend()
	w.ResponseWriter.WriteHeader(code)
}

func (w timelyWriter) Write(b []byte) (n int, err error) {
	for {
		w.extend()
		part := b[n:min(n+partSize, len(b))]
		written, err := w.ResponseWriter.Write(part)
		if n += written; err != nil || n == len(b) {
			return n, err
		}
	}
}
