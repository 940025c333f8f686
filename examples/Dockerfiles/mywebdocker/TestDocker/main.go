// A guest book: one page, a form, and a status address for health checks.
package main

import (
	"encoding/json"
	"html/template"
	"log"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	maxEntries = 100
	maxLength  = 200
)

type entry struct {
	Name string
	Text string
	When time.Time
}

type guestBook struct {
	mutex   sync.Mutex
	visits  int
	entries []entry
	started time.Time
}

var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>mywebdocker</title></head>
<body>
<h1>Hello from mywebdocker</h1>
<p>You are visitor number {{.Visits}}. Served by {{.Version}} on {{.Host}}.</p>
<form method="post" action="/">
<input name="name" placeholder="Name"> <input name="text" placeholder="Say something">
<button>Sign</button>
</form>
<ul>{{range .Entries}}<li><b>{{.Name}}</b>: {{.Text}}</li>{{end}}</ul>
</body>
</html>
`))

func (book *guestBook) sign(name, text string) {
	book.mutex.Lock()
	defer book.mutex.Unlock()
	book.entries = append([]entry{{Name: name, Text: text, When: time.Now()}}, book.entries...)
	if len(book.entries) > maxEntries {
		book.entries = book.entries[:maxEntries]
	}
}

func (book *guestBook) visit() (int, []entry) {
	book.mutex.Lock()
	defer book.mutex.Unlock()
	book.visits++
	return book.visits, append([]entry(nil), book.entries...)
}

func clip(text string) string {
	text = strings.TrimSpace(text)
	if runes := []rune(text); len(runes) > maxLength {
		return string(runes[:maxLength])
	}
	return text
}

func (book *guestBook) serveHome(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodPost {
		if text := clip(r.FormValue("text")); text != "" {
			book.sign(clip(r.FormValue("name")), text)
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	host, _ := os.Hostname()
	visits, entries := book.visit()
	data := map[string]any{
		"Visits": visits, "Entries": entries, "Version": runtime.Version(), "Host": host,
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := page.Execute(w, data); err != nil {
		log.Print(err)
	}
}

func (book *guestBook) serveStatus(w http.ResponseWriter, _ *http.Request) {
	book.mutex.Lock()
	defer book.mutex.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"status": "ok", "visits": book.visits, "entries": len(book.entries),
		"uptime": time.Since(book.started).Round(time.Second).String(),
	})
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	book := &guestBook{started: time.Now()}
	http.HandleFunc("/", book.serveHome)
	http.HandleFunc("/status", book.serveStatus)
	log.Printf("listening on :%s", port)
	log.Fatal(http.ListenAndServe(":"+port, nil))
}
