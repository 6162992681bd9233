import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.HexFormat;
import java.util.regex.Pattern;

import static java.nio.charset.StandardCharsets.UTF_8;

/** Reads data of a user from Human API: java Client.java USER [PATH] */
class Client {
    static final String SIDECAR = System.getenv().getOrDefault("SIDECAR_URL", "http://localhost:8080");
    static final String DATA_API = System.getenv().getOrDefault("DATA_API_URL", "https://api.humanapi.co");
    /** Longer than the sidecar itself waits for the auth service (17 s). */
    static final Duration TIMEOUT = Duration.ofSeconds(20);

    /** Keeps its connections. HTTP_1_1: otherwise every request offers an upgrade to HTTP/2. */
    final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    /** The sidecar has no token; errorCode says why, Retry-After when to ask again. */
    static class TokenException extends IOException {
        final String code;
        final String retryAfter;

        TokenException(HttpResponse<String> answer) {
            super(field(answer.body(), "errorCode") + ": " + field(answer.body(), "message"));
            code = field(answer.body(), "errorCode");
            retryAfter = answer.headers().firstValue("Retry-After").orElse(null);
        }
    }

    /** A text in a flat JSON object; the JSON library that your service has does it better. */
    static String field(String json, String name) {
        var match = Pattern.compile("\"" + name + "\"\\s*:\\s*\"([^\"]*)\"").matcher(json);
        return match.find() ? match.group(1) : "";
    }

    HttpResponse<String> callSidecar(String method, String user, String... headers)
            throws IOException, InterruptedException {
        var url = SIDECAR + "/token?client_user_id=" + URLEncoder.encode(user, UTF_8);
        var request = HttpRequest.newBuilder(URI.create(url))
                .method(method, HttpRequest.BodyPublishers.noBody()).timeout(TIMEOUT);
        if (headers.length > 0) request.headers(headers);
        var callerToken = System.getenv("CALLER_TOKEN_FILE");
        if (callerToken != null) {
            request.header("Authorization", "Bearer " + Files.readString(Path.of(callerToken)).strip());
        }
        var answer = http.send(request.build(), HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() >= 300) throw new TokenException(answer);
        return answer;
    }

    String ask(String user) throws IOException, InterruptedException {
        return field(callSidecar("GET", user).body(), "access_token");
    }

    /** Forgets this very token. A newer one, which another caller may have got meanwhile, stays. */
    void forget(String user, String token) throws IOException, InterruptedException, GeneralSecurityException {
        var hash = MessageDigest.getInstance("SHA-256").digest(token.getBytes(UTF_8));
        callSidecar("DELETE", user, "X-Rejected-Token-Hash", HexFormat.of().formatHex(hash));
    }

    HttpResponse<String> use(String token, String path) throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(DATA_API + path)).timeout(TIMEOUT)
                .header("Authorization", "Bearer " + token).build();
        return http.send(request, HttpResponse.BodyHandlers.ofString());
    }

    String read(String user, String path) throws IOException, InterruptedException, GeneralSecurityException {
        var token = ask(user);
        var answer = use(token, path);
        if (answer.statusCode() == 401) { // revoked: forget it, and ask once more
            forget(user, token);
            answer = use(ask(user), path);
        }
        if (answer.statusCode() != 200) throw new IOException(path + ": status " + answer.statusCode());
        return answer.body();
    }

    public static void main(String[] args) throws Exception {
        System.out.println(new Client().read(args[0], args.length > 1 ? args[1] : "/v1/human/profile"));
    }
}
