import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Posts bodies to URLs, twice each, with the default client: it offers HTTP/2 by an upgrade. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int n = 0; n < arguments.length; n += 2) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[n]))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[n + 1]))
                .build();
            for (int time = 0; time < 2; time++) {
                HttpResponse<String> response =
                    client.send(request, HttpResponse.BodyHandlers.ofString());
                System.out.println(response.statusCode() + " " + response.body());
            }
        }
    }
}
