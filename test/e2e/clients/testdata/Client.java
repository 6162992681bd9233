import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;

/** The clients of Java; see client in habits_test.go. */
class Client {
    /** HttpClient with ofInputStream, as Spring's RestClient uses it since 6.1: the length is not known. */
    static String[] inputStream(HttpClient client, String url, String type, String control, String body)
            throws Exception {
        var request = HttpRequest.newBuilder(URI.create(url)).POST(HttpRequest.BodyPublishers.ofInputStream(
                () -> new ByteArrayInputStream(body.getBytes(StandardCharsets.UTF_8))));
        if (!type.isEmpty()) request.header("Content-Type", type);
        if (!control.isEmpty()) request.header("Cache-Control", control);
        var response = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
        return new String[] {String.valueOf(response.statusCode()), response.body()};
    }

    /** HttpURLConnection in the mode in which Spring's RestTemplate uses it since 6.1. */
    static String[] urlConnection(String url, String type, String control, String body) throws IOException {
        var connection = (HttpURLConnection) URI.create(url).toURL().openConnection();
        connection.setRequestMethod("POST");
        connection.setDoOutput(true);
        connection.setChunkedStreamingMode(4096);
        if (!type.isEmpty()) connection.setRequestProperty("Content-Type", type);
        if (!control.isEmpty()) connection.setRequestProperty("Cache-Control", control);
        try (var out = connection.getOutputStream()) {
            out.write(body.getBytes(StandardCharsets.UTF_8));
        }
        var status = connection.getResponseCode();
        try (InputStream in = status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
            return new String[] {String.valueOf(status), new String(in.readAllBytes(), StandardCharsets.UTF_8)};
        }
    }

    /** Asks on connections that are kept until it gets no token. */
    static void call(HttpClient client, String base) {
        var request = HttpRequest.newBuilder(URI.create(base + "/token?client_user_id=busy")).build();
        var last = System.nanoTime();
        var before = "";
        for (int n = 1;; n++) {
            var status = 0;
            var connection = "";
            try {
                var response = client.send(request, HttpResponse.BodyHandlers.ofString());
                status = response.statusCode();
                connection = response.headers().firstValue("Connection").orElse("");
            } catch (Exception error) {
                connection = error.toString();
            }
            if (status != 200) {
                System.out.println(String.join("\t", String.valueOf((System.nanoTime() - last) / 1_000_000), before,
                        String.valueOf(status), connection));
                return;
            }
            last = System.nanoTime();
            before = connection;
            if (n == 20) System.out.println("busy");
        }
    }

    public static void main(String[] args) throws Exception {
        var client = HttpClient.newHttpClient();
        if (args[0].equals("busy")) {
            var callers = new ArrayList<Thread>();
            for (int i = 0; i < 4; i++) callers.add(new Thread(() -> call(client, args[1])));
            callers.forEach(Thread::start);
            for (var caller : callers) caller.join();
            return;
        }
        for (var line : (Iterable<String>) new BufferedReader(new InputStreamReader(System.in)).lines()::iterator) {
            var fields = line.split("\t", -1);
            var url = args[1] + fields[0];
            var said = args[0].equals("inputStream")
                    ? inputStream(client, url, fields[1], fields[2], fields[3])
                    : urlConnection(url, fields[1], fields[2], fields[3]);
            System.out.println(said[0] + "\t" + said[1].strip());
        }
    }
}
